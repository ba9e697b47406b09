"""Last words and multiple choice: against each continuation scored alone, and every refusal.

tests/interop/test_tasks.py compares the figures with lm-evaluation-harness.
"""

import json
import math

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import harness
from inference import continuations, tasks
from inference.continuations import Scores
from input_pipeline import examples, tokenizers
from input_pipeline.examples import Example
from runtime.devices import data_mesh
from runtime.errors import UserError
from tests.command import assert_refused
from tests.forked import run
from tests.stages import TINY, T, init

LETTERS = "abcdefghijk"
TOKENIZER = tokenizers.CharTokenizer(LETTERS)
APPLIED = {name: jax.jit(model.apply) for name, model in TINY.items()}


def alone(name, params, prompt, text):
    """Returns the nats of a continuation and whether it is greedy, token by token, unpadded."""
    nats, is_greedy = 0.0, True
    for end in range(len(text)):
        before = TOKENIZER.encode(prompt + text[:end])
        # A window ends with the last token of the continuation; what does not fit is left out.
        fits = max(0, len(before) + len(text) - end - (T + 1))
        logits = APPLIED[name]({"params": params}, before[fits:][None])[0, -1]
        target = TOKENIZER.encode(text[end])[0]
        nats -= float(jax.nn.log_softmax(logits)[target])
        is_greedy &= int(logits.argmax()) == target
    return nats, is_greedy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bigram", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_are_those_of_each_continuation_alone(name, batch_size):
    params = init(name, scale=3.0)
    draw = np.random.default_rng(0)

    def text(low, high):
        return "".join(draw.choice(list(LETTERS), draw.integers(low, high)))

    found = [
        Example("here", text(1, 9), [text(1, T + 1) for _ in range(draw.integers(1, 4))])
        for _ in range(12)
    ]
    scores = continuations.score(
        TINY[name],
        params,
        TOKENIZER,
        found,
        batch_size=batch_size,
        context_length=T,
        mesh=data_mesh(batch_size),
    )
    pairs = [(one.prompt, text) for one in found for text in one.continuations]
    expected = [alone(name, params, *pair) for pair in pairs]
    np.testing.assert_allclose(scores.nats, [nats for nats, _ in expected], rtol=1e-5)
    assert scores.are_greedy.tolist() == [is_greedy for _, is_greedy in expected]
    assert scores.num_tokens.tolist() == [len(text) for _, text in pairs]


def test_windows_are_padded_to_few_lengths():
    lengths = [continuations.padded_length(n, 1024) for n in (1, 16, 17, 32, 33, 500, 700, 1024)]
    assert lengths == [16, 16, 32, 32, 64, 512, 1024, 1024]
    assert continuations.padded_length(3, 8) == 8 == continuations.padded_length(8, 8)
    assert continuations.padded_length(90, 100) == 100


def test_a_last_word_is_right_if_each_token_is():
    scores = Scores(
        np.array([1.0, 2.0, 6.0, 3.0]), np.ones(4), np.array([True, False, False, True])
    )
    assert tasks.last_word(scores) == {
        "accuracy": 0.5,
        "accuracy_error": 0.25,
        "perplexity": pytest.approx(math.exp(3.0)),
        "examples": 4,
    }
    diverged = scores._replace(nats=np.full(4, 800.0))
    assert tasks.last_word(diverged)["perplexity"] == math.inf


def test_the_ending_of_the_least_nats_is_chosen():
    made = [
        Example("", "x", [" ab", " abcdef"], answer=0),  # Right as a whole alone.
        Example("", "x", [" ab", " abcdef"], answer=1),  # By characters alone: 1 and 5/6.
        Example("", "x", [" a", " b", " c", " d"], answer=3),  # By tokens alone.
    ]
    scores = Scores(
        np.array([2.0, 5.0, 2.0, 5.0, 1.0, 2.0, 2.0, 3.0]),
        np.array([1, 2, 1, 2, 1, 2, 2, 4]),
        np.zeros(8, bool),
    )
    found = tasks.choices(scores, made)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy_per_character"] == pytest.approx(1 / 3)
    assert found["accuracy_per_token"] == pytest.approx(2 / 3)
    assert found["accuracy_error"] == pytest.approx(math.sqrt(2 / 27))
    assert found["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert found["examples"] == 3


def test_passages_and_choices_are_read(tmp_path):
    passages = ["to be or  not\nto be", "a\nb ", "x y"]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps({'t': p})}\n" for p in passages))
    pyarrow.parquet.write_table(
        pyarrow.table({"t": passages, "n": [1, 2, 3]}), tmp_path / "a.parquet"
    )
    (tmp_path / "a.txt").write_text("to be or  not to be\n\n  \nx y\n")
    expected = [("to be or  not\nto", " be"), ("a", "\nb"), ("x", " y")]
    for name in ("a.jsonl", "a.parquet"):
        found = list(examples.last_words([tmp_path / name], "t"))
        assert [(one.prompt, *one.continuations) for one in found] == expected
        assert found[1].where == f"{tmp_path / name}, {'line' if 'json' in name else 'row'} 2"
    lines = list(examples.last_words([tmp_path / "a.txt"], ""))
    assert [(one.prompt, *one.continuations) for one in lines] == [
        ("to be or  not to", " be"),
        ("x", " y"),
    ]
    assert lines[1].where == f"{tmp_path / 'a.txt'}, line 4"
    records = [
        {"ctx": "He ", "endings": ["sat.", " ran. "], "label": 1, "ind": 4},
        {"ctx": "She", "endings": ["a", "b", "c"], "label": "0"},
    ]
    (tmp_path / "b.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    columns = {name: [one[name] for one in records] for name in ("ctx", "endings")}
    table = pyarrow.table({**columns, "label": ["1", "0"]})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    for name in ("b.jsonl", "b.parquet"):
        found = list(examples.choices([tmp_path / name]))
        assert [one[1:] for one in found] == [
            ("He", [" sat.", " ran."], 1),
            ("She", [" a", " b", " c"], 0),
        ]


GOOD = {"ctx": "a", "endings": ["b", "c"], "label": 0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"ctx": "a", "label": 0}, "line 1 has no 'endings': expected ctx, endings, label"),
        (GOOD | {"ctx": 3}, "line 1: expected a text as 'ctx' and two or more as 'endings'"),
        (GOOD | {"ctx": " "}, "expected a text as 'ctx'"),
        (GOOD | {"endings": "bc"}, "two or more as 'endings'"),
        (GOOD | {"endings": ["b"]}, "two or more as 'endings'"),
        (GOOD | {"endings": ["b", ""]}, "two or more as 'endings'"),
        (GOOD | {"endings": ["b", None]}, "two or more as 'endings'"),
        (GOOD | {"label": 2}, "its 'label' is 2: expected 0 to 1, the number of the right ending"),
        (GOOD | {"label": ""}, "its 'label' is '': expected 0 to 1"),
        (GOOD | {"label": True}, "its 'label' is True: expected 0 to 1"),
        (GOOD | {"label": 0.5}, "its 'label' is 0.5: expected 0 to 1"),
        (GOOD | {"label": [0]}, "expected 0 to 1"),
        ([1], "line 1 is no JSON object"),
    ],
)
def test_records_that_are_no_choices_are_refused(record, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError) as error:
        list(examples.choices([tmp_path / "a.jsonl"]))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    flags = ["--config=self_attention:smoke", "--config.tracking.wandb_mode=disabled"]
    result = run("main.py", *flags, f"--workdir={folder / 'run'}")
    assert result.returncode == 0, result.stderr
    return folder / "run"


def evaluated(trained, path, task, *flags):
    return run("evaluate.py", f"--workdir={trained}", f"--text={path}", f"--task={task}", *flags)


@pytest.mark.slow
def test_the_command_scores_files(trained, tmp_path):
    (tmp_path / "a.txt").write_text("To be or not to be\nO Romeo, Romeo\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"label": "1"}))
    found = harness.open_run(trained).last_words(str(tmp_path / "a.txt"))
    assert found["last_word/examples"] == 2 and found["last_word/perplexity"] > 1
    result = evaluated(trained, tmp_path / "b.jsonl", "choices")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["step"] == 20
    # Of two answers to one question one is right.
    assert found["choices/accuracy"] == found["choices/chance"] == 0.5


@pytest.mark.slow
def test_mistakes_of_tasks_are_refused(trained, tmp_path):
    long, empty = tmp_path / "long.txt", tmp_path / "empty.jsonl"
    long.write_text("a " + "b" * 900)
    empty.write_text("\n")
    (tmp_path / "one.txt").write_text("a b\nword\n")
    (tmp_path / "new.txt").write_text("to €\n")
    (tmp_path / "other.jsonl").write_text('{"passage": "a b"}')
    opened = harness.open_run(trained)
    for name, task, message in (
        ("long.txt", opened.last_words, "line 1: a continuation has 901 tokens: expected at most"),
        ("empty.jsonl", opened.last_words, "has no examples: expected one at least"),
        ("empty.jsonl", opened.choices, "has no examples: expected one at least"),
        ("one.txt", opened.last_words, "one.txt, line 2: expected a passage of two words or more"),
        ("one.txt", opened.choices, "expected .jsonl or .parquet records with ctx, endings, label"),
        ("new.txt", opened.last_words, "new.txt, line 1: character '€'"),
        ("other.jsonl", opened.last_words, "line 1 has no field 'text': set"),
        ("none.jsonl", opened.choices, "none.jsonl can't be read"),
    ):
        with pytest.raises(UserError) as error:
            task(str(tmp_path / name))
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_flags_without_use_are_refused(trained):
    for task, flag, message in (
        ("choices", "--field=passage", "--field=passage has no use with --task=choices"),
        ("last_word", "--prompt_field=x", "--prompt_field=x has no use with --task=last_word"),
    ):
        assert_refused(evaluated(trained, "x.jsonl", task, flag), message)
    result = run("evaluate.py", f"--workdir={trained}", "--task=choices")
    assert_refused(result, "--task=choices needs --text: the file of examples")
