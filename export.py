"""Exports a run's weights and tokenizer for `transformers`.

python export.py --workdir=runs/x --output=FOLDER
"""

from pathlib import Path

from absl import flags

from checkpoints import pretrained
from runtime import errors, process


def main() -> None:
    """Writes the folder `--output` and prints its name."""
    flag = flags.FLAGS
    pretrained.export(Path(flag.workdir), flag.checkpoint, Path(flag.output))
    print(flag.output)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Run folder.", required=True)
    flags.DEFINE_string("output", None, "Folder to write.", required=True)
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    process.configure_jax()
    errors.run_command(main)
