"""Tests of `generate.py --interactive` and of typed prompts, at a terminal and in a pipe."""

import signal
import subprocess
import sys

import pytest

import harness
from config.check import MAX_SEED
from tests.command import OF_A_COMMAND, ROOT
from tests.terminal import CTRL_D, UP, Terminal

NUM_TOKENS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained model."""
    workdir = tmp_path_factory.mktemp("interactive") / "run"
    return harness.train("gpt2:smoke", workdir, **{"tracking.wandb_mode": "disabled"})


def command(run, *flags):
    return ["generate.py", f"--workdir={run.workdir}", "--checkpoint=latest", *flags]


@pytest.mark.long
def test_a_session_at_a_narrow_terminal(run):
    """Texts would take minutes: Ctrl-C stops each, and they begin like those of plain calls."""
    flags = ("--interactive", "--num_tokens=1000000", f"--seed={MAX_SEED}", "--top_k=9")
    terminal = Terminal(*command(run, *flags), columns=20)

    def begins_as_alone(prompt, seed, next_mark):
        terminal.until("\n" + run.generate(prompt, NUM_TOKENS, seed=seed, top_k=9))
        terminal.interrupt(next_mark)

    terminal.until("Ctrl-C stops a text, Ctrl-D ends\n")
    terminal.until(f"seed {MAX_SEED}> ")
    # What can't be continued costs a line, and no seed.
    terminal.type("caf\u00e9\r")
    terminal.until("error: prompt='caf\u00e9': character '\u00e9' at position 3 of the text is not")
    terminal.until(f"seed {MAX_SEED}> ")
    terminal.type("ROMEO:\r")
    # The next seed after the last is 0, and the history has the prompt.
    begins_as_alone("ROMEO:", MAX_SEED, next_mark="seed 0> ")
    terminal.type(f"{UP}\r")
    begins_as_alone("ROMEO:", 0, next_mark="seed 1> ")
    # At the mark Ctrl-C discards the line.
    terminal.type("JULIET")
    terminal.until("JULIET")
    terminal.interrupt("\nseed 1> ")
    terminal.type("KING\r")
    begins_as_alone("KING", 1, next_mark="seed 2> ")
    terminal.type(CTRL_D)
    assert terminal.end() == (0, "\n")


@pytest.mark.long
@pytest.mark.parametrize("where", ["without readline", "into a file"])
def test_a_session_without_an_editor_of_lines(run, where, tmp_path):
    (tmp_path / "readline.py").write_text("raise ImportError('no module named readline')")
    output = tmp_path / "text" if where == "into a file" else None
    flags = ("--interactive", f"--num_tokens={NUM_TOKENS}")
    terminal = Terminal(*command(run, *flags), output=output, PYTHONPATH=str(tmp_path))
    terminal.until("seed 0> ")
    terminal.type("KIN\x7fNG\n")
    shown = terminal.until("seed 1> ")
    text = run.generate("KING", NUM_TOKENS) + "\n"
    if output:
        assert output.read_text() == text and text not in shown
    else:
        assert text in shown
    terminal.type("lost")
    terminal.until("lost")
    terminal.interrupt("\nseed 1> ")
    terminal.terminate()
    code, shown = terminal.end()
    assert (code, shown.strip()) == (128 + signal.SIGTERM, "terminated")


@pytest.mark.long
def test_a_prompt_is_typed_up_to_ctrl_d(run):
    terminal = Terminal(*command(run, "--prompt=-", f"--num_tokens={NUM_TOKENS}"))
    terminal.until("the prompt, up to Ctrl-D on a line of its own:\n")
    terminal.type(f"\nKING\n{CTRL_D}")
    terminal.until(f"step {run.step}\n")
    assert terminal.end() == (0, run.generate("\nKING", NUM_TOKENS) + "\n")


@pytest.mark.long
def test_a_pipe_has_the_texts_alone(run):
    """The first text is that of the given prompt; the last line has no end."""
    flags = ["--interactive", "--prompt=First", f"--num_tokens={NUM_TOKENS}", "--seed=5"]
    lines = b"\xef\xbb\xbfROMEO:\r\n\ncaf\xe9\nJULIET\xc3\xa9\nKING"
    made = subprocess.run(
        [sys.executable, *command(run, *flags)],
        cwd=ROOT,
        input=lines,
        capture_output=True,
        timeout=OF_A_COMMAND,
    )
    assert made.returncode == 0, made.stderr
    prompts = ["First", "ROMEO:", "KING"]
    texts = [run.generate(prompt, NUM_TOKENS, seed=5 + i) for i, prompt in enumerate(prompts)]
    assert made.stdout.decode() == "".join(text + "\n" for text in texts)
    header, *errors = made.stderr.decode().splitlines()
    assert header == f"{run.workdir}, step {run.step}"
    for line, message in zip(
        errors,
        [
            "error: the line is empty: expected a prompt, of at least one token",
            "error: the line is not UTF-8 at byte 3 (0xe9): it looks like CP1252 and reads 'caf",
            "error: prompt='JULIET\u00e9': character '\u00e9' at position 6 of the text is not",
        ],
        strict=True,
    ):
        assert line.startswith(message)
