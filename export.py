"""Exports a run's weights and tokenizer for `transformers`.

python export.py --workdir=runs/x --output=FOLDER
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


from pathlib import Path

from absl import flags

from runtime import errors
from runtime.terminal import announce


def main() -> None:
    """Writes the folder `--output` and prints its name."""
    flag = flags.FLAGS
    announce(f"opening {flag.workdir}")
    # JAX takes a second to load: when the flags are known to be good.
    process.configure_jax()
    from checkpoints import pretrained
    from tracking import artifact

    pretrained.export(artifact.local_folder(flag.workdir), flag.checkpoint, Path(flag.output))
    print(flag.output)


if __name__ == "__main__":
    flags.DEFINE_string(
        "workdir", None, "Run folder, or wandb:... as in generate.py.", required=True
    )
    flags.DEFINE_string("output", None, "Folder to write.", required=True)
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    errors.run_command(main)
