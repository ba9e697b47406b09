"""Exercises: solutions pass, blanks fail, classic mistakes are named, broken code is one line."""

import ast
import re
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exercises import check, learner
from exercises.catalogue import EXERCISES, FOLDER, listing
from exercises.checks import stage_2, stage_3, stage_5, training
from tests import command, playground_runs

SOLUTIONS = Path(__file__).parent / "exercise_solutions"
BY_ID = {exercise.id: exercise for exercise in EXERCISES}


def answers(folder, id, *edits):
    """Copies the solutions with some texts replaced in the file of an exercise."""
    shutil.copytree(SOLUTIONS, folder, dirs_exist_ok=True)
    path = folder / BY_ID[id].file
    text = path.read_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return folder


def ask(id, folder, run=Path("nowhere")):
    """The result of one exercise, with time for a busy machine."""
    return check.check(BY_ID[id], folder, run, command.PATIENCE)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(check, "CHECK_LIMIT", command.PATIENCE)
    monkeypatch.setattr(learner, "TIME_LIMIT", 60.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a decoder whose block 1, head 2 looks at the token before."""
    folder = tmp_path_factory.mktemp("runs")
    playground_runs.write_text(folder / "text.txt")
    T, D = 16, 32

    def edit(params):
        flat = jax.tree.map(jnp.zeros_like, params["block_0"]["attention"])
        query, key = np.zeros((D, D), np.float32), np.zeros((D, D), np.float32)
        query[:T, T:], key[:T, T:] = 100 * np.eye(T, k=-1), np.eye(T)
        attention = flat | {"query": {"kernel": query}, "key": {"kernel": key}}
        norm = {"scale": jnp.ones(D), "bias": jnp.zeros(D)}
        block = params["block_0"] | {"attention": attention, "attention_norm": norm}
        token = {"embedding": 0.01 * params["embed"]["token"]["embedding"]}
        embed = {"token": token, "position": {"embedding": 10 * jnp.eye(T, D)}}
        return params | {"block_0": block, "embed": embed}

    playground_runs.write_run(
        folder / "decoder",
        "transformer_decoder:smoke",
        folder / "text.txt",
        edit=edit,
        **{"model.embed_dim": D, "model.context_length": T, "model.num_heads": 2},
    )
    return folder


@pytest.mark.parametrize("id", [one.id for one in EXERCISES if not one.is_slow])
def test_solutions_are_right(id, runs):
    result = ask(id, SOLUTIONS, runs)
    assert result.state == "right", result
    assert check.lines(BY_ID[id], result)[0].startswith(f"✓ {id} {BY_ID[id].title}")
    assert len(check.lines(BY_ID[id], result)) == 1


def test_all_blanks_are_reported_kindly():
    """By the command, as a learner runs it before writing anything."""
    result = command.run("-m", "exercises.check", PYTHONIOENCODING="utf-8")
    assert (result.returncode, result.stderr) == (1, "")
    found = result.stdout.splitlines()
    assert found[-1] == "0 of 16 are right"
    blanks = sorted(found[:-1])
    assert len(blanks) == 16
    for line, exercise in zip(blanks, EXERCISES, strict=True):
        named = re.escape(f"· {exercise.id} is still blank: write {exercise.functions[0]} in ")
        assert re.fullmatch(rf"{named}exercises/{exercise.file}, line \d+", line)


# Edits of the solution, and what the line must say. Each is a mistake that someone makes.
MISTAKES = [
    ("1.1", [("np.log(65)", "np.log2(65)")], "bits"),
    ("1.1", [("np.log(65)", "1 / 65")], "the probability of a character"),
    ("1.1", [("np.log(65)", "2.5")], "predicted 2.5 nats, measured a number that is 1.6. higher"),
    ("1.2", [("1).mean()", "1).sum()"), ("-1).sum()", "-1).sum()")], "the sum over all places"),
    ("1.2", [("return -np", "return np")], "the minus sign is missing"),
    ("1.2", [("np.log(np", "np.log2(np")], "cross_entropy: expected"),
    ("1.2", [("logits_BTV - logits_BTV.max(-1, keepdims=True)", "logits_BTV")], "overflows"),
    ("1.2", [("(-1, keep", "(1, keep")], "the softmax over T, not over V"),
    ("1.2", [("return -np", "return -1.4426950408889634 * np")], "bits"),
    ("1.3", [("np.ones((", "np.zeros((")], "nothing is added to the counts"),
    ("1.3", [("(tokens_T[:-1], tokens_T[1:])", "(tokens_T[1:], tokens_T[:-1])")], "swapped"),
    ("1.3", [(".sum(1, keep", ".sum(0, keep")], "each column sums to 1"),
    ("1.3", [(".sum(1, keepdims=True)", ".sum(1)")], "keepdims=True is missing"),
    ("1.3", [("return np.log(", "return (")], "the logarithm is missing"),
    (
        "1.3",
        [
            (
                "np.add.at(counts, (tokens_T[:-1], tokens_T[1:]), 1)",
                "counts[tokens_T[:-1], tokens_T[1:]] += 1",
            )
        ],
        "np.add.at counts all",
    ),
    ("2.1", [("range(t + 1)", "range(T)")], "there is no mask"),
    ("2.1", [("range(t + 1)", "range(min(t + 2, T))")], "also looks at the next one"),
    (
        "2.1",
        [("range(t + 1)", "range(t)"), ("max(scores)", "max(scores, default=0)")],
        "does not look at itself",
    ),
    ("2.1", [("range(t + 1)", "range(t, T)"), ("powers[s]", "powers[s - t]")], "wrong way round"),
    ("2.1", [(" / math.sqrt(K)", "")], "there is no scale"),
    ("2.1", [("/ math.sqrt(K)", "/ K")], "divided by K, not by sqrt"),
    ("2.1", [("/ math.sqrt(K)", "* math.sqrt(K)")], "multiplied by sqrt"),
    (
        "2.1",
        [("range(t + 1)", "range(T)"), (" / math.sqrt(K)", "")],
        "no mask.* and there is no scale",
    ),
    (
        "2.1",
        [
            (
                "    T, K = query_TK.shape\n",
                "    T, K = query_TK.shape\n"
                "    powers = np.exp(np.tril(query_TK @ key_TK.T / math.sqrt(K)))\n"
                "    return powers / powers.sum(1, keepdims=True) @ value_TK\n",
            )
        ],
        "later scores are 0 before the softmax",
    ),
    ("2.1", [("* value_TK[s]", "* key_TK[s]")], "the average is of the keys"),
    (
        "2.1",
        [
            (
                "    T, K = query_TK.shape\n",
                "    T, K = query_TK.shape\n"
                "    powers = np.tril(np.exp(query_TK @ key_TK.T / math.sqrt(K)))\n"
                "    return powers / powers.sum(0) @ value_TK\n",
            )
        ],
        "over the queries, not over the keys",
    ),
    ("2.3", [("k=-5", "k=-4")], "position 5 gives 0.00 to the position 5 back.*goes 4 back"),
    ("2.3", [("k=-5", "k=5")], "position 5 gives"),
    ("2.3", [("100 * np.eye", "np.eye")], "multiply the query by a larger number"),
    ("2.3", [("100 * np.eye(16, k=-5)", "np.zeros((16, 16))")], "all 6 get the same"),
    ("2.3", [('"query"', '"q"')], "a dict without 'query'"),
    ("2.3", [("np.eye(16, k=-5)", "np.eye(15, k=-5)")], r"shape \(15, 15\): expected \[D, D\]"),
    (
        "3.1",
        [
            (
                "reshape(B, T, num_heads, D // num_heads).transpose(0, 2, 1, 3)",
                "reshape(B, num_heads, T, D // num_heads)",
            )
        ],
        "reshape alone mixes positions: the first",
    ),
    ("3.1", [("num_heads).transpose(0, 2, 1, 3)", "num_heads)")], "a transpose is missing"),
    (
        "3.1",
        [
            (
                "num_heads, D // num_heads).transpose(0, 2, 1, 3)",
                "D // num_heads, num_heads).transpose(0, 3, 1, 2)",
            )
        ],
        "dealt out in turn",
    ),
    (
        "3.1",
        [("x_BHTK.transpose(0, 2, 1, 3)", "x_BHTK")],
        "alone mixes positions: transpose",
    ),
    ("3.2", [("return 16", "return 1")], "1 heads ended 0.4. nats above the best"),
    ("3.2", [("return 16", "return 3")], "expected one of 1, 2, 4, 8, 16"),
    ("3.3", [("k=-2", "k=-5"), ("np.eye(T, k=-5)\n    key", "np.eye(T, k=-2)\n    key")], "head 1"),
    (
        "3.3",
        [("query[:T, :T], query[:T, T:]", "query[:T, T:], query[:T, :T]")],
        "the heads are swapped",
    ),
    ("3.3", [("k=-5", "k=-3")], "head 2: position 5 gives .* goes 3 back"),
    ("4.1", [(" + epsilon", "")], "the epsilon is missing"),
    (
        "4.1",
        [("np.sqrt(variance + epsilon)", "(np.sqrt(variance) + epsilon)")],
        "not to the variance",
    ),
    ("4.1", [("** 2).mean(-1, keepdims=True)", "** 2).sum(-1, keepdims=True) / 6")], "ddof=1"),
    ("4.1", [("mean(-1", "mean(1")], "over T, not over the D features"),
    ("4.1", [(" * scale_D", "")], "the scale is missing"),
    ("4.1", [(" + shift_D", "")], "the shift is missing"),
    ("4.1", [("np.sqrt(variance + epsilon)", "(variance + epsilon)")], "not by its square root"),
    (
        "4.2",
        [("x_BTD = x_BTD + att", "x_BTD = att"), ("return x_BTD + mlp", "return mlp")],
        "missing twice",
    ),
    ("4.2", [("x_BTD = x_BTD + att", "x_BTD = att")], "not added after attention"),
    ("4.2", [("return x_BTD + mlp", "return mlp")], "not added after the MLP"),
    (
        "4.2",
        [
            (
                "x_BTD + attention(attention_norm(x_BTD))",
                "attention_norm(x_BTD + attention(x_BTD))",
            ),
            ("x_BTD + mlp(mlp_norm(x_BTD))", "mlp_norm(x_BTD + mlp(x_BTD))"),
        ],
        "the norms come after the sums",
    ),
    ("4.2", [("mlp(mlp_norm(x_BTD))", "mlp(attention_norm(x_BTD))")], "norm is used twice"),
    ("5.1", [("0.044715 * ", "")], "the factor 0.044715 is missing"),
    ("5.1", [("np.sqrt(2 / np.pi)", "np.sqrt(2 * np.pi)")], r"sqrt\(2 \* pi\) in place"),
    ("5.1", [("x / 2 *", "x *")], "the factor 1/2 is missing"),
    ("5.1", [("return x", "return np.maximum(x, 0)\n    return x")], "this is ReLU"),
    ("5.2", [("return V * D", "return 2 * V * D")], "a head of its own is counted"),
    ("5.2", [(" + T * D", "")], "the embedding of positions is missing"),
    ("5.2", [("block + 2 * D", "block")], "the last LayerNorm is missing"),
    ("5.2", [(" + outputs", "")], "the biases of the dense layers are missing"),
    (
        "5.3",
        [('"model.embed_dim": 32', '"model.embed_dim": 64')],
        "parameters: expected at most",
    ),
    (
        "5.3",
        [('"train.num_steps": 300', '"train.num_steps": 301')],
        "301 updates: expected at most",
    ),
    ("5.3", [('"train.batch_size": 31', '"train.batch_size": 32')], "tokens: expected at most"),
    ("5.3", [('"train.num_steps"', '"train.flops"')], "'train.flops' may not change"),
    ("5.3", [('"model.dropout_rate"', '"model.dropout"')], "dropout"),
    ("5.3", [('"model.num_heads": 4', '"model.num_heads": 5')], "not divisible"),
    (
        "6.1",
        [('    x = x + params["embed"]["position"]["embedding"][:T]\n', "")],
        "embedding of the positions",
    ),
    ("6.1", [("np.sqrt(D // H)", "np.sqrt(D)")], "first differ in the attention of block 0"),
    (
        "6.1",
        [("x = x + dense(hidden", "x = dense(hidden")],
        "first differ in the sums of block 0",
    ),
    (
        "6.1",
        [
            (
                'np.maximum(dense(norm(x, layers["mlp_norm"]), layers["mlp"]["up"]), 0)',
                'dense(norm(x, layers["mlp_norm"]), layers["mlp"]["up"])',
            )
        ],
        "first differ in the MLP of block 0",
    ),
    (
        "6.1",
        [('params[f"block_{number}"]', 'params["block_0"]')],
        "first differ in the sums of block 1",
    ),
    ("6.1", [('layer.get("bias", 0)', "0")], "differ in the logits"),
    ("6.1", [('norm(x, params["final_norm"])', "x")], "differ in the logits"),
]


@pytest.mark.parametrize(
    ("id", "edits", "message"),
    MISTAKES,
    ids=[f"{one[0]}-{place}" for place, one in enumerate(MISTAKES)],
)
def test_mistakes_are_named(id, edits, message, tmp_path):
    result = ask(id, answers(tmp_path, id, *edits))
    assert result.state == "wrong", result
    assert re.search(message, result.text), result.text
    assert "\n" not in result.text
    found = check.lines(BY_ID[id], result)
    assert found == [f"✗ {id} {result.text}", f"  hint: {BY_ID[id].hint}"]


def test_each_written_exercise_has_two_mistakes():
    for exercise in EXERCISES:
        if exercise.kind == "write":
            assert sum(id == exercise.id for id, *_ in MISTAKES) >= 2


# The body of 1.1, and the line that it gets.
BROKEN = [
    ("return 1 / 0", "stage_1.py, line 7: ZeroDivisionError: division by zero"),
    ("x = undefined", "stage_1.py, line 7: NameError: name 'undefined' is not defined"),
    ("raise ValueError('a\\nb')", "stage_1.py, line 7: ValueError: a b"),
    ("exit(0)", "stage_1.py, line 7: SystemExit: 0"),
    ("return fresh_loss()", "stage_1.py, line 7: RecursionError: maximum recursion depth"),
    ("return (", "stage_1.py, line 7: SyntaxError: '(' was never closed"),
    ("x = 1", "fresh_loss returned None: expected a number; does it end with return?"),
    ("return '4.17'", "fresh_loss returned a str: expected a number"),
    ("return True", "fresh_loss returned a bool: expected a number"),
    ("return [4.17]", "fresh_loss returned a list: expected a number"),
    ("return float('nan')", "fresh_loss returned nan: expected a finite number"),
    (
        "while True: pass",
        "stage_1.py, line 7: fresh_loss() ran for more than 0.5 s: an endless",
    ),
]


@pytest.mark.parametrize(("body", "message"), BROKEN, ids=[body for body, _ in BROKEN])
def test_broken_answers_are_one_line(body, message, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "TIME_LIMIT", 0.5 if "while" in body else 60.0)
    folder = answers(tmp_path, "1.1", ("return np.log(65)", body))
    result = ask("1.1", folder)
    assert result.state == "wrong"
    assert message in result.text
    assert "\n" not in result.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def fresh_los():\n    return 4\n",
            "stage_1.py has no function fresh_loss: is it fresh_los, line 1?",
        ),
        ("x = 1\n", "stage_1.py has no function fresh_loss"),
        ("fresh_loss = 4.17\n", "fresh_loss is not a function: expected def fresh_loss(...)"),
        (
            "import nothing_of_this_name\ndef fresh_loss():\n    return 4\n",
            "stage_1.py, line 1: ModuleNotFoundError",
        ),
        ("\0", "stage_1.py"),
        (None, "stage_1.py can't be read (FileNotFoundError"),
    ],
    ids=["renamed", "removed", "a number", "import", "binary", "no file"],
)
def test_broken_files_are_one_line(text, message, tmp_path):
    if text is not None:
        (tmp_path / "stage_1.py").write_text(text)
    result = ask("1.1", tmp_path)
    assert result.state == "wrong"
    assert message in result.text
    assert "\n" not in result.text


@pytest.mark.parametrize(
    "body", ["...", "pass", '"""Returns."""', "raise NotImplementedError('x')"]
)
def test_blanks_in_other_forms(body, tmp_path):
    result = ask("1.1", answers(tmp_path, "1.1", ("return np.log(65)", body)))
    assert (result.state, result.text.split(": ")[0]) == ("blank", "1.1 is still blank")


def test_a_part_that_is_blank_deep_inside(tmp_path):
    edit = ("np.log(65)", "later()\n\n\ndef later():\n    raise NotImplementedError")
    result = ask("1.1", answers(tmp_path, "1.1", edit))
    assert result.state == "blank"
    assert "stage_1.py, line 11 raises NotImplementedError" in result.text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("return [[1], [1, 2]]", "returned rows of different lengths"),
        ("return None", "split_heads returned None"),
        ("return x_BTD + 1j", "returned an array of complex128: expected an array of numbers"),
        ("return np.full((2, 3, 5, 4), np.nan)", r"split_heads at b=0, h=0, t=0, k=0: .*found nan"),
        ("return x_BTD", r"shape \(2, 5, 12\): expected \[B, H, T, K\] = \(2, 3, 5, 4\)"),
    ],
)
def test_arrays_of_a_wrong_type_or_shape(edit, message, tmp_path):
    new = f"def split_heads(x_BTD, num_heads):\n    {edit}\n"
    result = ask("3.1", answers(tmp_path, "3.1", ("def split_heads(x_BTD, num_heads):\n", new)))
    assert result.state == "wrong"
    assert re.search(message, result.text), result.text


def test_what_an_answer_prints_is_kept_apart(tmp_path, capsys):
    edit = ("return np.log(65)", "print('one\\ntwo \\x1b[1m')\n    return np.log(65)")
    result = ask("1.1", answers(tmp_path, "1.1", edit))
    assert capsys.readouterr() == ("", "")
    assert check.lines(BY_ID["1.1"], result)[1:] == [
        "  your code also printed 2 lines: --show shows them"
    ]
    assert check.lines(BY_ID["1.1"], result, show=True)[1:] == ["  | one", "  | two \\x1b[1m"]


def test_an_answer_that_changes_its_arguments_is_compared_with_them_unchanged(tmp_path):
    edit = ("    shifted =", "    logits_BTV += 1\n    shifted =")
    assert ask("1.2", answers(tmp_path, "1.2", edit)).state == "right"


def test_the_find_exercise_needs_a_run(runs, tmp_path):
    result = ask("4.3", SOLUTIONS, tmp_path)
    assert (
        result.text
        == f"no run of stage 4 in {tmp_path}: run `make ladder` first, or name one with "
        "--run=FOLDER"
    )
    for given, message in [
        ("1, 1", r"block 1, head 1 gives 0.\d+ of its weight .* another head (0.9|1.0)\d+"),
        ("3, 1", r"\(3, 1\) is no head of .*: expected block 1 to 2 and head 1 to 2"),
        ("2", r"previous_token_head returned 2: expected \(block, head\)"),
        ("'a', 1", r"expected \(block, head\)"),
    ]:
        folder = answers(tmp_path / given, "4.3", ("return 1, 2", f"return {given}"))
        assert re.search(message, ask("4.3", folder, runs / "decoder").text)


@pytest.mark.long
def test_training_exercises(monkeypatch, tmp_path):
    """The checks are the same code; the runs are shorter."""
    train = training.val_loss
    lengths = {
        "train.num_steps": 4,
        "train.steps_per_dispatch": 2,
        "train.batch_size": 2,
        "optimizer.name": "adamw",  # Compiles sooner than Muon.
    }
    seen, given = [], {}

    @cache
    def of(experiment):
        return train(experiment, given[experiment] | lengths)

    def shortly(experiment, changes):
        given[experiment] = changes
        seen.append((experiment, of(experiment)))
        return seen[-1][1]

    monkeypatch.setattr(training, "val_loss", shortly)
    assert re.fullmatch(
        r"predicted 0.4 nats, measured a number that is [34].\d\d higher",
        ask("2.2", SOLUTIONS).text,
    )
    assert seen[0][0] == "self_attention:without_mask"
    near = ("return 0.4", f"return {seen[0][1] + 0.3}")
    assert ask("2.2", answers(tmp_path, "2.2", near)).state == "right"
    floor = stage_5.text.loss_of_counted_pairs()
    assert ask("5.3", SOLUTIONS).text == (
        f"val/loss {seen[-1][1]:.3f} after 300 updates: expected less than {floor:.3f}, the loss "
        "of counted pairs"
    )
    monkeypatch.setattr(stage_5.text, "loss_of_counted_pairs", lambda: 9.0)
    assert ask("5.3", SOLUTIONS).state == "right"


def test_the_mask_of_each_mistake_is_its_name():
    """The table of mistakes has the right answer at no mistake alone."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((5, 3)) for _ in range(3)]
    right = stage_2.weights(arrays[0], arrays[1], "", "", "") @ arrays[2]
    for name, wrong in stage_2.mistaken(*arrays).items():
        assert not np.allclose(wrong, right), name


def test_the_best_number_of_heads_is_a_clear_one():
    losses = sorted(stage_3.losses_by_heads().values())
    assert losses[1] - losses[0] > 0.02


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            "import signal\n"
            "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
            "    while True: pass",
            r"✗ 1.1 .*stage_1.py, line 9: fresh_loss\(\) ran for more than 0.3 s: an endless "
            r"loop\?; the checks end here\n",
        ),
        ("return sum(range(10**15))", r'(.|\n)*stage_1.py", line 7 in fresh_loss(.|\n)*'),
    ],
    ids=["deaf", "in C"],
)
def test_loops_that_no_signal_ends(body, line, tmp_path):
    folder = answers(tmp_path, "1.1", ("return np.log(65)", body))
    code = (
        "from pathlib import Path; from exercises import check, learner; "
        "learner.TIME_LIMIT, learner.PATIENCE = 0.3, 0.3; "
        f"check.check(check.EXERCISES[0], Path({str(folder)!r}), Path())"
    )
    result = command.run("-c", code, PYTHONIOENCODING="utf-8")
    assert result.returncode == 1
    assert re.fullmatch(line, result.stdout + result.stderr), result


@pytest.mark.slow
def test_a_call_that_ends_while_it_is_given_up_does_not_go_on(tmp_path):
    """As on a busy machine: the call ends while the line about it is being written."""
    body = (
        "import signal, time\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"
        "    time.sleep(1.6)\n"
        "    return 4.0"
    )
    folder = answers(tmp_path, "1.1", ("return np.log(65)", body))
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from exercises import check, learner\n"
        "class Slow:\n"
        "    def write(self, text): os.write(1, text.encode()); time.sleep(0.6)\n"
        "    def flush(self): pass\n"
        "sys.__stdout__ = Slow()\n"
        "learner.TIME_LIMIT, learner.PATIENCE = 0.3, 1.0\n"
        f"check.check(check.EXERCISES[0], Path({str(folder)!r}), Path())\n"
        "print('went on')"
    )
    result = command.run("-c", code)
    assert result.returncode == 1
    assert result.stdout.endswith("; the checks end here\n"), result.stdout


@pytest.mark.slow
def test_the_time_of_a_call_is_limited(monkeypatch, tmp_path):
    assert ask("1.1", SOLUTIONS).state == "right"
    late = check.check(BY_ID["1.1"], SOLUTIONS, Path(), 1.0)
    assert late == (
        "stopped",
        "not checked: this call has taken its 57 s; python -m exercises.check 1.1",
        "",
    )
    monkeypatch.setattr(stage_2.heads, "weights", lambda *_: [None for _ in iter(int, 1)])
    stopped = check.check(BY_ID["2.3"], SOLUTIONS, Path(), 2.5)
    assert stopped.text.startswith("the check took more than 2 s: the machine is busy")


@pytest.mark.slow
def test_the_command(tmp_path):
    """Right: 0; wrong: 1; no such exercise: 2. It is the learner's way in."""
    folder = answers(tmp_path, "3.2", ("return 16", "return 4"))
    one = command.run(
        "-m", "exercises.check", "3.1", f"--answers={SOLUTIONS}", PYTHONIOENCODING="utf-8"
    )
    assert (one.returncode, one.stdout, one.stderr) == (0, "✓ 3.1 Split and join heads\n", "")
    both = command.run(
        "-m", "exercises.check", "3.2", "1.2", f"--answers={folder}", PYTHONIOENCODING="ascii"
    )
    assert both.returncode == 1
    lines = both.stdout.splitlines()
    assert lines[0].startswith("wrong: 3.2 4 heads ended")
    assert lines[1].startswith("  hint: ")
    assert lines[2:] == ["right: 1.2 Cross-entropy from logits", "1 of 2 are right"]
    listed = command.run("-m", "exercises.check", "--list", f"--answers={folder}", "1")
    assert [line[:12] for line in listed.stdout.splitlines()] == [
        "1.1  written",
        "1.2  written",
        "1.3  written",
    ]
    command.assert_refused(
        command.run("-m", "exercises.check", "2.4"),
        "exercise '2.4': expected 1 to 6, or one of 1.1, ",
    )
    command.assert_refused(
        command.run("-m", "exercises.check", "--answers=nowhere"),
        "--answers=nowhere: expected a folder",
    )


def test_the_list():
    assert [one["id"] for one in listing()] == [
        *(f"{stage}.{number}" for stage in range(1, 6) for number in (1, 2, 3)),
        "6.1",
    ]
    assert {one["kind"] for one in listing()} == {"write", "predict", "weights", "find", "train"}
    for exercise, row in zip(EXERCISES, listing(), strict=True):
        text = (FOLDER / exercise.file).read_text()
        assert row["file"] == f"exercises/{exercise.file}"
        docstrings = {
            node.name: ast.get_docstring(node)
            for node in ast.parse(text).body
            if isinstance(node, ast.FunctionDef)
        }
        kind = {"weights": "set weights by hand"}.get(exercise.kind, exercise.kind)
        for function in exercise.functions:
            assert docstrings[function].startswith(f"{exercise.id}, {kind}: returns ")
