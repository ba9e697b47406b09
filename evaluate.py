"""Evaluates a model on a whole split, or on any text.

python evaluate.py --workdir=runs/x --split=val
python evaluate.py --workdir=runs/x --text=FILE
python evaluate.py --workdir=runs/x --text=FILE --task=last_word
python evaluate.py --workdir=runs/x --text=FILE --task=choices
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


import json

from absl import flags

from runtime import errors
from runtime.terminal import announce

LOSS = "loss"


def main() -> None:
    """Prints the metrics as one JSON object."""
    flag = flags.FLAGS
    if flag.text and flag["split"].present:
        raise errors.UserError(f"--text={flag.text} and --split={flag.split}: give one of them")
    for name in ("field", "prompt_field"):
        if flag[name].value and not flag.text:
            raise errors.UserError(f"--{name}={flag[name].value}: expected with --text")
    if flag.task != LOSS and not flag.text:
        raise errors.UserError(f"--task={flag.task} needs --text: the file of examples")
    unused = {"last_word": ["prompt_field"], "choices": ["field", "prompt_field"]}
    for name in unused.get(flag.task, []):
        if flag[name].value:
            raise errors.UserError(
                f"--{name}={flag[name].value} has no use with --task={flag.task}: leave it out"
            )
    announce(f"opening {flag.workdir}")
    # JAX takes a second to load: when the flags are known to be good.
    process.configure_jax()
    import harness

    run = harness.open_run(flag.workdir, flag.checkpoint)
    if flag.task == "last_word":
        scores = run.last_words(flag.text, flag.field)
    elif flag.task == "choices":
        scores = run.choices(flag.text)
    elif flag.text:
        scores = run.evaluate_text(flag.text, flag.field, flag.prompt_field)
    else:
        scores = run.evaluate(flag.split)
    print(json.dumps({"step": run.step, **scores}))


if __name__ == "__main__":
    flags.DEFINE_string(
        "workdir",
        None,
        "Run folder, folder of weights, or a model in W&B: wandb:ENTITY/PROJECT/NAME:ALIAS.",
        required=True,
    )
    flags.DEFINE_enum("split", "val", ["train", "val"], "Split to evaluate on.")
    flags.DEFINE_string("text", "", "Text to evaluate on: file, folder of .txt, glob, or several.")
    flags.DEFINE_enum(
        "task",
        LOSS,
        [LOSS, "last_word", "choices"],
        "Measures the loss; of passages, how well their last word is predicted (as LAMBADA); of "
        "records with ctx, endings and label, how often the right one is chosen (as HellaSwag).",
    )
    flags.DEFINE_string("field", "", "Field of .jsonl and .parquet files; default: the run's.")
    flags.DEFINE_string("prompt_field", "", "Field of the prompts, if --field has answers.")
    flags.DEFINE_string("checkpoint", "latest", "best (by validation loss), latest, or a step.")
    errors.run_command(main)
