"""Generates text with a trained model: `python generate.py --workdir=runs/x --prompt="ROMEO:"`.

The text is streamed to standard output, everything else goes to standard error.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages()


import itertools
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from config.check import MAX_SEED
from inference import prompts
from input_pipeline.tokenizers import Tokenizer, encode_prompt, suited
from runtime import errors
from runtime.interactive import Lines
from runtime.terminal import announce, escape_controls


def main() -> None:
    """Prints the texts of the prompt that is given, or of each that is typed."""
    flag = flags.FLAGS
    announce(f"opening {flag.workdir}")
    # JAX takes a second to load: when the flags are known to be good.
    process.configure_jax()
    import harness
    from inference.sampling import Sampling
    from inference.streaming import check_stops, stream_text

    sampling = Sampling(flag.temperature, flag.top_k, flag.top_p).check("--")
    stops = check_stops(flag.stop, "--stop")
    path = prompt_path()
    prompt = prompts.read(path) if path else flag.prompt
    is_given = bool(path) or not flag["prompt"].using_default_value
    run = harness.open_run(flag.workdir, flag.checkpoint)
    if is_given:
        encode_prompt(prompt, run.tokenizer, prompts.name(path) if path else "--prompt")
    elif not flag.interactive:
        prompt = default_prompt(run.tokenizer)
    print(f"{flag.workdir}, step {run.step}", file=sys.stderr)

    def write(prompt: str, seed: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        made = run.stream(prompt, flag.num_tokens, sampling, seed, flag.num_samples)
        chunks = itertools.takewhile(lambda _: not is_stopped(), made)
        show_samples(prompt, chunks, partial(stream_text, run.tokenizer, stops=stops))

    if flag.interactive:
        converse(write, prompt if is_given else "")
    else:
        write(prompt, flag.seed)


def prompt_path() -> str:
    """Returns the file that has the prompt, "-" for standard input, or "" if the flag has it.

    Raises UserError for flags of which one alone can be obeyed.
    """
    flag = flags.FLAGS
    path = flag.prompt_file
    if path and flag["prompt"].present:
        given = f"--prompt={flag.prompt!r:.100} and --prompt_file={path}"
        raise errors.UserError(f"{given}: give one of them")
    if flag.prompt == prompts.STANDARD_INPUT:
        path = flag.prompt
    if path == prompts.STANDARD_INPUT and flag.interactive:
        raise errors.UserError(
            "--interactive reads standard input, and so does a prompt -: give one"
        )
    return path


def default_prompt(tokenizer: Tokenizer) -> str:
    """Returns the default of --prompt, or what suits a tokenizer better, with a note."""
    default = flags.FLAGS.prompt
    prompt = suited(default, tokenizer)
    if prompt != default:
        missing = f"this model knows no {default!r}"
        print(f"--prompt: {missing}, so it continues {prompt!r}", file=sys.stderr)
    return prompt


def converse(write: Callable[..., None], first: str) -> None:
    """Prints the texts of `first`, if it is not empty, and then of each line of standard input.

    Each prompt has another seed. Ctrl-C stops a text. What the model can't continue costs one line
    of error.
    """
    lines = Lines()
    if lines.is_terminal:
        print("Ctrl-C stops a text, Ctrl-D ends", file=sys.stderr, flush=True)
    seed = flags.FLAGS.seed
    if first:
        write(first, seed, lambda: lines.stopped)
        seed = following(seed)
    while (line := lines.read(f"seed {seed}> ")) is not None:
        try:
            write(prompts.decode(line, Path("the line")), seed, lambda: lines.stopped)
            seed = following(seed)
        except errors.UserError as error:
            errors.print_line(f"error: {error}")


def following(seed: int) -> int:
    """Returns the next seed; the first one comes after the last."""
    return (seed + 1) % (MAX_SEED + 1)


def show_samples(
    prompt: str,
    generated: Iterable[np.ndarray],
    to_text: Callable[[Iterable[np.ndarray]], Iterable[str]],
) -> None:
    """Prints the samples, which are generated together; the first is streamed."""
    # Printing a sample generates all, as far as it goes; tee keeps the chunks for the others.
    for sample, chunks in enumerate(itertools.tee(generated, flags.FLAGS.num_samples)):
        if sample:
            print(f"\nsample {sample + 1}:", file=sys.stderr, flush=True)
        one = (chunk[sample] for chunk in chunks)
        show(itertools.chain([prompt], to_text(one)))


def show(texts: Iterable[str]) -> None:
    """Prints the pieces of a text as they come.

    A terminal gets the text with control characters escaped, a file or a pipe the exact text.
    """
    shown = partial(escape_controls, keep="\n\t") if sys.stdout.isatty() else str
    for text in texts:
        print(shown(text), end="", flush=True)
    print(flush=True)


if __name__ == "__main__":
    flags.DEFINE_string(
        "workdir",
        None,
        "Run folder, folder of weights, or a model in W&B: wandb:ENTITY/PROJECT/NAME:ALIAS.",
        required=True,
    )
    flags.DEFINE_string("prompt", "\n", "Text to continue; - reads it from standard input.")
    flags.DEFINE_string("prompt_file", "", "File of the text to continue, in place of --prompt.")
    flags.DEFINE_boolean("interactive", False, "Continues each line that is typed or piped in.")
    flags.DEFINE_integer("num_tokens", 500, "Tokens to generate, at most.", lower_bound=1)
    flags.DEFINE_multi_string("stop", [], "Ends a text before this one; may be repeated.")
    flags.DEFINE_float("temperature", 0.8, "Divides the logits; below 1e-5 is greedy.")
    flags.DEFINE_integer("top_k", 0, "Samples from the k likeliest tokens; 0 from all.")
    flags.DEFINE_float("top_p", 1.0, "Samples from the likeliest tokens up to this probability.")
    flags.DEFINE_integer("seed", 0, "Seed of the sampling.", 0, MAX_SEED)
    flags.DEFINE_integer("num_samples", 1, "Texts to generate, in parallel.", lower_bound=1)
    flags.DEFINE_string("checkpoint", "best", "best (by validation loss), latest, or a step.")
    errors.run_command(main)
