"""The harness in scripts and notebooks, against the commands and against what the run recorded."""

import dataclasses
import subprocess

import nbclient
import nbformat
import numpy as np
import pytest

import harness
import run_folder
from models.bigram import Bigram
from runtime.errors import UserError
from tests.command import OF_A_COMMAND, ROOT, assert_refused
from tests.forked import run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run, made through the harness with a changed key."""
    folder = tmp_path_factory.mktemp("harness") / "run"
    made = harness.train("self_attention:smoke", folder, **{"train.num_steps": 30})
    assert made.step == 30
    return folder


@pytest.mark.long
def test_a_run_is_the_one_that_the_command_makes(workdir, tmp_path):
    flags = ("--config=experiments/self_attention.py:smoke", "--config.train.num_steps=30")
    assert run("main.py", *flags, f"--workdir={tmp_path}/run").returncode == 0
    ours, theirs = harness.open_run(workdir), harness.open_run(tmp_path / "run")
    assert ours.summary["val/loss"] == theirs.summary["val/loss"]
    assert ours.samples == theirs.samples
    assert (
        ours.config == theirs.config and ours.config.tracking.experiment == "self_attention:smoke"
    )


@pytest.mark.slow
def test_the_record_is_columns(workdir):
    made = harness.open_run(workdir, "latest")
    lines = list(run_folder.read_lines(workdir / "metrics.jsonl"))
    for name, column in made.metrics.items():
        for line, value in zip(lines, column, strict=True):
            assert value == line[name] if name in line else np.isnan(value)


@pytest.mark.slow
def test_a_text_is_the_one_that_the_command_writes(workdir):
    made = harness.open_run(workdir).generate("ROMEO:", 30, seed=3, top_k=5)
    flags = (f"--workdir={workdir}", "--prompt=ROMEO:", "--num_tokens=30", "--seed=3", "--top_k=5")
    assert run("generate.py", *flags).stdout == made + "\n"


@pytest.mark.slow
def test_a_text_ends_before_a_stop(workdir):
    """In both, and each sample at its own; standard output has what came before it."""
    run_ = harness.open_run(workdir)
    whole = run_.generate("ROMEO:", 60, seed=3)
    stop, later = whole[20:23], whole[40:42]
    made = run_.generate("ROMEO:", 60, seed=3, stop=[later, stop])
    assert made == "ROMEO:" + whole[6:].partition(stop)[0] and len(made) < len(whole)
    assert run_.generate("ROMEO:", 60, seed=3, stop=stop) == made
    flags = (f"--workdir={workdir}", "--prompt=ROMEO:", "--num_tokens=60", "--seed=3")
    printed = run("generate.py", *flags, f"--stop={later}", f"--stop={stop}", "--num_samples=2")
    assert printed.stdout.startswith(made + "\n")
    assert_refused(run("generate.py", *flags, "--stop="), "--stop is empty: expected the text")


@pytest.mark.slow
def test_logits_give_the_loss_that_was_recorded(workdir):
    """The mean over windows of the validation text, as `evaluate` cuts them."""
    made = harness.open_run(workdir, "latest")
    assert made.evaluate("val")["val/loss"] == made.summary["val/loss"]
    logits = made.logits("to be")
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert logits.shape == (5, 65) and np.allclose(np.exp(log_probs).sum(-1), 1)
    # A later token changes no earlier logits.
    assert np.allclose(made.logits("to")[0], logits[0], atol=1e-5)


@pytest.mark.slow
def test_attention_is_the_softmax_of_the_products_of_queries_and_keys(workdir):
    """Written out in NumPy, from the parameters."""
    made = harness.open_run(workdir)
    tokens, embed = made.tokenizer.encode("to be"), made.params["embed"]
    x_TD = embed["token"]["embedding"][tokens] + embed["position"]["embedding"][:5]
    q_TK, k_TK = (x_TD @ made.params["attention"][name]["kernel"] for name in ("query", "key"))
    unnormalized_TS = np.tril(np.exp(np.asarray(q_TK @ k_TK.T) / q_TK.shape[1] ** 0.5))
    weights_LHTS = made.attention("to be")
    assert weights_LHTS.shape == (1, 1, 5, 5) and weights_LHTS.dtype == np.float32
    expected_TS = unnormalized_TS / unnormalized_TS.sum(axis=1, keepdims=True)
    assert np.allclose(weights_LHTS[0, 0], expected_TS, atol=1e-5)


@pytest.mark.slow
def test_a_comparison_has_a_row_a_run_and_a_chart(workdir):
    compared = harness.compare(workdir, workdir.parent, against="flops")
    assert compared.table["val/loss"].tolist() == [harness.open_run(workdir).summary["val/loss"]]
    picture = compared._repr_svg_()
    assert picture.startswith("<svg") and "Floating-point operations of training" in picture
    assert harness.open_run(workdir).plot("train")._repr_svg_().startswith("<svg")


def without_attention(workdir):
    """Returns the run with the model of stage 1 in place of its own."""
    params = {"next_token": {"embedding": np.zeros((65, 65))}}
    return dataclasses.replace(harness.open_run(workdir), model=Bigram(65), params=params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda at: harness.train("gpt3", at), "experiment 'gpt3': expected one of bigram, "),
        (lambda at: harness.train("gpt2:smok", at), "unknown preset 'smok'"),
        (lambda at: harness.train("gpt2:smoke", at, **{"train.num_step": 1}), "'train.num_steps'?"),
        (lambda at: harness.train("gpt2:smoke", at, seed="x"), "seed='x': expected an integer"),
        (lambda at: harness.train("gpt2:smoke", at), "already holds a run"),
        (lambda at: harness.open_run(at / "none"), "is not a run folder"),
        (lambda at: harness.open_run(at).generate(""), "prompt is empty"),
        (lambda at: harness.open_run(at).generate("a", temperature=-1), "temperature=-1: expected"),
        (lambda at: harness.open_run(at).generate("a", stop=["b", ""]), "stop is empty: expected"),
        (lambda at: harness.open_run(at).logits(""), "text is empty"),
        (lambda at: harness.open_run(at).logits("a" * 99), "the text has 99 tokens: expected "),
        (lambda at: harness.open_run(at).attention(""), "text is empty"),
        (lambda at: harness.open_run(at).attention("a" * 99), "the text has 99 tokens: expected "),
        (lambda at: without_attention(at).attention("a"), "is a model without attention: expected"),
        (lambda at: harness.open_run(at).evaluate("test"), "split='test': expected train or val"),
        (lambda at: harness.open_run(at).plot("test"), "loss='test': expected one of val, train"),
        (lambda at: harness.compare(at, against="time"), "against='time': expected one of "),
    ],
)
def test_a_mistake_is_one_line(call, message, workdir):
    with pytest.raises(UserError) as mistake:
        call(workdir)
    assert message in str(mistake.value) and "\n" not in str(mistake.value)


@pytest.mark.long
def test_the_notebook_runs(tmp_path):
    """As a user would run it, in the root of a checkout."""
    for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split():
        if not path.startswith(("tests/", "benchmarks/", "docs/")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).symlink_to(ROOT / path)
    notebook = nbformat.read(ROOT / "first_run.ipynb", as_version=4)
    # Outputs of whoever ran it last are not committed.
    assert not any(cell.get("outputs") for cell in notebook.cells)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=OF_A_COMMAND, resources=where).execute()
    shown = [one.get("data", {}) for cell in notebook.cells for one in cell.get("outputs", ())]
    assert sum("image/svg+xml" in data for data in shown) == 2
