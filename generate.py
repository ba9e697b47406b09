"""Generates text with a trained model: `python generate.py --workdir=runs/x --prompt="ROMEO:"`.

The text is streamed to standard output, everything else goes to standard error.
"""

import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from checkpoints import pretrained
from inference.generation import generate
from inference.sampling import Sampling
from input_pipeline.tokenizers import Tokenizer
from runtime import errors, process
from runtime.terminal import escape_controls


def main() -> None:
    """Prints the samples: they are generated together, and the first is streamed."""
    flag = flags.FLAGS
    sampling = Sampling(flag.temperature, flag.top_k, flag.top_p).check("--")
    trained = pretrained.open_model(Path(flag.workdir), flag.checkpoint)
    prompt = trained.tokenizer.encode(flag.prompt)
    if not len(prompt):
        raise errors.UserError("--prompt is empty: expected at least one token")
    print(f"{flag.workdir}, step {trained.step}", file=sys.stderr)
    generated = generate(
        trained.model,
        trained.params,
        prompt,
        num_tokens=flag.num_tokens,
        context_length=trained.config.model.context_length,
        sampling=sampling,
        seed=flag.seed,
        num_samples=flag.num_samples,
    )
    # Printing the first sample generates all; tee keeps the chunks for the others.
    for sample, chunks in enumerate(itertools.tee(generated, flag.num_samples)):
        if sample:
            print(f"\nsample {sample + 1}:", file=sys.stderr, flush=True)
        show(flag.prompt, trained.tokenizer, (chunk[sample] for chunk in chunks))


def stream_text(tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> Iterator[str]:
    """Yields the text of consecutive token ids (1-d arrays), in pieces of whole characters."""
    held_back = np.zeros(0, np.int32)
    for chunk in chunks:
        held_back = np.concatenate([held_back, chunk])
        text = tokenizer.decode(held_back)
        # A character may take several tokens; until the last one it decodes to U+FFFD.
        if not text.endswith("\ufffd"):
            yield text
            held_back = held_back[:0]
    yield tokenizer.decode(held_back)


def show(prompt: str, tokenizer: Tokenizer, chunks: Iterator[np.ndarray]) -> None:
    """Prints a prompt and streams its continuation.

    A terminal gets the text with control characters escaped, a file or a pipe the exact text.
    """
    shown = partial(escape_controls, keep="\n\t") if sys.stdout.isatty() else str
    for text in itertools.chain([prompt], stream_text(tokenizer, chunks)):
        print(shown(text), end="", flush=True)
    print(flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Run folder, or folder of weights.", required=True)
    flags.DEFINE_string("prompt", "\n", "Text to continue.")
    flags.DEFINE_integer("num_tokens", 500, "Tokens to generate.", lower_bound=1)
    flags.DEFINE_float("temperature", 0.8, "Divides the logits; 0 is greedy.")
    flags.DEFINE_integer("top_k", 0, "Samples from the k likeliest tokens; 0 from all.")
    flags.DEFINE_float("top_p", 1.0, "Samples from the likeliest tokens up to this probability.")
    flags.DEFINE_integer("seed", 0, "Seed of the sampling.")
    flags.DEFINE_integer("num_samples", 1, "Texts to generate, in parallel.", lower_bound=1)
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    process.configure_jax()
    errors.run_command(main)
