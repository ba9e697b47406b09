"""Writes text with a trained model: `python generate.py --workdir=runs/x --prompt="ROMEO:"`.

The text goes to standard output as it is made, everything else to standard error.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags

from checkpoints import pretrained
from inference.generation import generate
from inference.sampling import Sampling
from input_pipeline.tokenizers import Tokenizer
from runtime import errors, process
from runtime.terminal import inert_lines


def main() -> None:
    """Writes the first sample while it is made, and the others, made with it, after it."""
    flag = flags.FLAGS
    for name in ("num_tokens", "num_samples"):
        if flag[name].value < 1:
            raise errors.UserError(f"--{name}={flag[name].value}: expected 1 or more")
    sampling = Sampling(flag.temperature, flag.top_k, flag.top_p).check("--")
    trained = pretrained.open_model(Path(flag.workdir), flag.checkpoint)
    prompt = trained.tokenizer.encode(flag.prompt)
    if not len(prompt):
        raise errors.UserError("--prompt is empty: a model continues at least one token")
    print(f"{flag.workdir}, step {trained.step}", file=sys.stderr)
    made = generate(
        trained.model,
        trained.params,
        prompt,
        num_tokens=flag.num_tokens,
        context_length=trained.config.model.context_length,
        sampling=sampling,
        seed=flag.seed,
        num_samples=flag.num_samples,
    )
    # The first sample's rows are made as they are printed; the others' are there by then.
    first, *others = itertools.tee(made, flag.num_samples)
    show(flag.prompt, trained.tokenizer, (chunk[0] for chunk in first))
    for sample, chunks in enumerate(others, start=1):
        print(f"\nsample {sample + 1}:", file=sys.stderr, flush=True)
        show(flag.prompt, trained.tokenizer, (chunk[sample] for chunk in chunks))


def stream_text(tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> Iterator[str]:
    """The text of consecutive token ids (1-d arrays), in pieces that end with whole characters."""
    held_back = np.zeros(0, np.int32)
    for chunk in chunks:
        held_back = np.concatenate([held_back, chunk])
        text = tokenizer.decode(held_back)
        # A character may be spread over tokens, four bytes at the most; until the last of them
        # is there it decodes to U+FFFD.
        if not text.endswith("\ufffd"):
            yield text
            held_back = held_back[:0]
    yield tokenizer.decode(held_back)


def show(prompt: str, tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> None:
    """Prints a prompt and, as its tokens come, what follows.

    As it is, unless a terminal reads it, which would obey what may stand in it.
    """
    shown = inert_lines if sys.stdout.isatty() else str
    for text in itertools.chain([prompt], stream_text(tokenizer, chunks)):
        print(shown(text), end="", flush=True)
    print(flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Run folder, or one of weights.", required=True)
    flags.DEFINE_string("prompt", "\n", "What the text continues.")
    flags.DEFINE_integer("num_tokens", 500, "How many tokens to add.")
    flags.DEFINE_float("temperature", 0.8, "Below 1 prefers likely tokens; 0 takes the likeliest.")
    flags.DEFINE_integer("top_k", 0, "Draws from the k likeliest tokens; 0 from all.")
    flags.DEFINE_float("top_p", 1.0, "Draws from the likeliest that hold this share.")
    flags.DEFINE_integer("seed", 0, "Another seed is another text.")
    flags.DEFINE_integer("num_samples", 1, "Texts, made side by side.")
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    process.configure_jax()
    errors.run_command(main)
