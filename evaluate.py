"""Evaluates a model on a whole split: `python evaluate.py --workdir=runs/x --split=val`."""

import json
from pathlib import Path

from absl import flags

from checkpoints import pretrained
from inference.evaluation import evaluate
from input_pipeline import corpus
from runtime import devices, errors, process
from training import run_start


def main() -> None:
    """Prints the metrics as one JSON object."""
    flag = flags.FLAGS
    trained = pretrained.open_model(Path(flag.workdir), flag.checkpoint)
    data = corpus.load(trained.config.data)
    run_start.check_text(data, Path(flag.workdir))
    pretrained.check_tokenizer(Path(flag.workdir), data.tokenizer)
    batch_size = trained.config.eval.batch_size
    mesh = devices.data_mesh(batch_size)
    score = evaluate(
        trained.model,
        devices.replicate(trained.params, mesh),
        getattr(data, flag.split),
        data.tokenizer.token_bytes,
        batch_size=batch_size,
        context_length=trained.config.model.context_length,
        mesh=mesh,
    )
    scores = {f"{flag.split}/{name}": value for name, value in score.items()}
    print(json.dumps({"step": trained.step, **scores}))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Run folder, or folder of weights.", required=True)
    flags.DEFINE_enum("split", "val", ["train", "val"], "Split to evaluate on.")
    flags.DEFINE_string("checkpoint", "latest", "best (by validation loss), latest, or a step.")
    process.configure_jax()
    errors.run_command(main)
