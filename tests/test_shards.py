"""Prepared corpora as training reads them: the order of windows, and what is refused."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_folder
import train
from input_pipeline import batches, mixture, shards
from input_pipeline.permutation import permuted
from input_pipeline.shards import Shards
from runtime.errors import UserError
from tests.command import assert_refused, run
from tests.prepared import prepare

SIZES = st.integers(1, 3000)


@given(SIZES, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_an_order_has_each_number_once(size, seed, epoch):
    order = permuted(np.arange(size), size, seed, epoch)
    assert sorted(order) == list(range(size))


@given(st.integers(2, 2**48), st.data())
def test_a_place_in_a_large_order_is_within_it_and_of_its_own(size, data):
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=50, unique=True))
    numbers = permuted(np.array(places), size, 3, 1)
    assert ((numbers >= 0) & (numbers < size)).all()
    assert len(set(numbers)) == len(places)
    one_by_one = [permuted(np.array([place]), size, 3, 1)[0] for place in places]
    np.testing.assert_array_equal(numbers, one_by_one)


def test_orders_differ_and_look_random():
    n = 10_007
    orders = [permuted(np.arange(n), n, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, one in enumerate(orders):
        # Of a random order about one number stays in its place, and neighbours are n / 3 apart.
        assert (one == np.arange(n)).sum() < 10
        assert np.abs(np.diff(one)).mean() == pytest.approx(n / 3, rel=0.03)
        assert abs(np.corrcoef(one, np.arange(n))[0, 1]) < 0.04
        for other in orders[:i]:
            assert (one == other).sum() < 10


def corpus_of(*lengths):
    """Files whose tokens count on from 0, so that a window shows where it is from."""
    ends = np.cumsum([0, *lengths])
    return Shards([np.arange(a, b) for a, b in itertools.pairwise(ends)])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 8))
def test_windows_cover_each_file_and_cross_none(lengths, context_length):
    found = corpus_of(*lengths)
    count = found.num_windows(context_length)
    windows = found.windows(np.arange(count), context_length)
    expected = [
        array[start : start + context_length + 1]
        for array in found.arrays
        for start in range(0, len(array) - context_length, context_length)
    ]
    assert len(found) == sum(lengths) and count == len(expected)
    np.testing.assert_array_equal(windows, np.reshape(expected, (-1, context_length + 1)))


def rows_of(found, count, epochs, num_processes, steps_per_dispatch=3):
    """Returns all windows of some epochs, as `num_processes` draw their rows of each batch."""
    batch_size, context_length = 4, 5
    num_steps = epochs * count // batch_size
    drawn = []
    for rows in np.array_split(np.arange(batch_size), num_processes):
        of_process = batches.train_batches(
            found,
            seed=7,
            batch_size=batch_size,
            context_length=context_length,
            steps_per_dispatch=steps_per_dispatch,
            start_step=0,
            num_steps=num_steps,
            rows=rows,
        )
        drawn.append(np.concatenate([windows for _, windows in of_process]))
    return np.concatenate(drawn, axis=1)[:num_steps].reshape(-1, context_length + 1)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_an_epoch_has_each_window_once_for_any_number_of_processes(num_processes):
    found = corpus_of(106, 58, 7, 60)
    count = found.num_windows(5)
    assert count % 4 == 0
    rows = rows_of(found, count, 2, num_processes)
    first, second = rows[:count, 0], rows[count:, 0]
    every = found.windows(np.arange(count), 5)[:, 0]
    assert sorted(first) == sorted(second) == sorted(every)
    assert (first != second).any()
    np.testing.assert_array_equal(rows, rows_of(found, count, 2, 1, steps_per_dispatch=1))


def test_a_batch_may_have_rows_of_two_epochs():
    numbers = shards.in_order(np.arange(30).reshape(3, 10), 7, seed=0).ravel()
    for epoch in range(4):
        assert sorted(numbers[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert len({tuple(numbers[7 * epoch : 7 * epoch + 7]) for epoch in range(4)}) == 4


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(1, 7))
def test_a_resumed_run_sees_the_same_batches(start_step, steps_per_dispatch):
    found = corpus_of(500, 300)
    options = dict(seed=1, batch_size=6, context_length=4, num_steps=60)
    options["steps_per_dispatch"] = steps_per_dispatch

    def drawn(start):
        return {
            first + k: windows[k]
            for first, windows in batches.train_batches(found, start_step=start, **options)
            for k in range(len(windows))
        }

    whole, resumed = drawn(0), drawn(start_step)
    for step in range(start_step, 60):
        np.testing.assert_array_equal(resumed[step], whole[step])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a corpus prepared from 200 made documents, in bytes."""
    path = tmp_path_factory.mktemp("corpus")
    documents = [{"text": f"Document {number}: " + "to be or not " * 9} for number in range(200)]
    (path / "a.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in documents))
    result = prepare(path / "a.jsonl", path / "out", "--tokenizer=byte", "--val_share=0.1")
    assert result.returncode == 0, result.stderr
    return path / "out"


FLAGS = ("--config=bigram:smoke", "--config.data.name=shards", "--config.data.tokenizer=byte")


@pytest.mark.long
def test_a_prepared_corpus_is_trained_on_and_resumed(folder, tmp_path):
    from experiments import self_attention

    def config(steps, **changes):
        made = self_attention.get_config("smoke")
        made.data.update(name="shards", path=str(folder), tokenizer="byte")
        made.train.num_steps, made.eval.max_tokens = steps, 300
        made.optimizer.final_learning_rate = made.optimizer.learning_rate
        made.tracking.wandb_mode = "disabled"
        made.checkpoint.resume = True
        made.update_from_flattened_dict(changes)
        return made

    for steps, name in ((20, "whole"), (10, "stopped"), (20, "stopped")):
        train.train_and_evaluate(config(steps), tmp_path / name)
    lines = [
        {line["step"]: line.get("train/loss") for line in run_folder.read_lines(path)}
        for path in (tmp_path / name / run_folder.METRICS for name in ("whole", "stopped"))
    ]
    assert lines[0][20] == lines[1][20] is not None
    headline = run_folder.read_json(tmp_path / "whole" / run_folder.CONFIG)
    assert headline["eval"]["max_tokens"] == 300
    import harness

    opened = harness.open_run(tmp_path / "whole")
    assert set(opened.evaluate("val")) >= {"val/loss", "val/bits_per_byte"}
    with pytest.raises(UserError, match="may be larger than memory: expected --split=val"):
        opened.evaluate("train")


WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=5)


@settings(max_examples=40)
@given(WEIGHTS, st.integers(0, 10**9), st.integers(0, 2**32))
def test_any_ten_thousand_rows_have_exact_shares(weights, start, seed):
    counts = mixture.counts_of(",".join(map(str, weights)), weights)
    assert sum(counts) == 10_000
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - 10_000 * weight / sum(weights)) < 1
    mixed = mixture.Mixture([corpus_of(9)] * len(weights), counts)
    which, own_rows = mixed.dealt(np.arange(start, start + 10_000), seed)
    assert [(which == number).sum() for number in range(len(weights))] == counts
    # The rows of each corpus come one after the other.
    for number in range(len(weights)):
        own = own_rows[which == number]
        np.testing.assert_array_equal(np.diff(own), 1)
    shares = [counts[number] / 10_000 for number in which]
    np.testing.assert_allclose(own_rows, start * np.array(shares), atol=10_000 + 1e-6 * start)


def test_a_mixture_takes_each_corpus_through_its_own_epochs():
    parts = [corpus_of(41), Shards([np.arange(1000, 1021)])]
    mixed = mixture.Mixture(parts, mixture.counts_of("3,1", [41, 21]))
    rows = mixed.drawn(np.arange(400), 4, seed=5)
    first, second = (rows[rows[:, 0] < 1000], rows[rows[:, 0] >= 1000])
    assert 250 < len(first) < 350  # Random within a period.
    for part, found in zip(parts, (first, second), strict=True):
        count = part.num_windows(4)
        expected = sorted(part.windows(np.arange(count), 4)[:, 0])
        for epoch in range(3):
            assert sorted(found[epoch * count : (epoch + 1) * count, 0]) == expected
    by_size = mixture.counts_of("", [300, 100])
    assert by_size == [7500, 2500] == mixture.counts_of("0.75,0.25", [1, 1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("3", "--config.data.weights=3: expected 2 numbers above 0"),
        ("3,0", "--config.data.weights=3,0: expected 2 numbers"),
        ("3,x", "--config.data.weights=3,x: expected 2 numbers"),
        ("1/0,1", "--config.data.weights=1/0,1: expected 2 numbers"),
        ("1e9,1", "a corpus would get less than a row of 10,000"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(UserError) as error:
        mixture.counts_of(weights, [10, 10])
    assert message in str(error.value)


@pytest.mark.long
def test_a_mixture_is_trained_on(folder, tmp_path):
    other = tmp_path / "b.jsonl"
    other.write_text("".join(f"{json.dumps({'text': f'{n} other words'})}\n" for n in range(300)))
    made = prepare(other, tmp_path / "other", "--tokenizer=byte", "--val_share=0.1")
    assert made.returncode == 0, made.stderr
    learned = prepare(other, tmp_path / "bpe", "--tokenizer=bpe:300", "--val_share=0.1")
    assert learned.returncode == 0, learned.stderr
    both = f"--config.data.path={folder},{tmp_path / 'other'}"
    flags = [*FLAGS, both, "--config.tracking.wandb_mode=disabled"]
    result = run("main.py", *flags, "--config.data.weights=1,3", f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    paths = folder, tmp_path / "other"
    lengths = [len(shards.open_folder(str(path), "byte").val) for path in paths]
    assert f"{sum(lengths) - 1:,} of them to predict" in result.stdout
    resumed = [*flags, "--config.checkpoint.resume=true", f"--workdir={tmp_path / 'run'}"]
    assert_refused(run("main.py", *resumed, "--config.data.weights=1,1"), "data.weights was '1,3'")
    mixed = f"--config.data.path={folder},{tmp_path / 'bpe'}"
    assert_refused(run("main.py", *FLAGS, mixed), "was prepared with 'bpe:300': set that")
    comma = tmp_path / "a, b"
    comma.symlink_to(folder)  # A comma in the name of a folder that exists does not separate.
    named = [*FLAGS, f"--config.data.path={comma}", "--config.tracking.wandb_mode=disabled"]
    result = run("main.py", *named, f"--workdir={tmp_path / 'comma'}")
    assert result.returncode == 0, result.stderr
    alone = ["--config=bigram:smoke", "--config.data.weights=1,2"]
    assert_refused(run("main.py", *alone), "expected with --config.data.name=shards")


def test_an_evaluation_of_a_part_is_that_of_its_first_targets():
    tokens = np.arange(1000)
    part = batches.beginning(tokens, 300)
    assert batches.size(part) == (301, 300)
    np.testing.assert_array_equal(part, tokens[:301])
    assert batches.beginning(tokens, 0) is tokens
    assert len(batches.beginning(tokens, 5000)) == 1000


def test_wrong_corpora_are_refused(folder, tmp_path):
    def refused(path, tokenizer="byte"):
        with pytest.raises(UserError) as error:
            shards.open_folder(str(path), tokenizer)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "needs --config.data.path" in refused("")
    assert "has no index.json: prepare it" in refused(tmp_path)
    assert refused(folder, "gpt2").startswith("--config.data.tokenizer='gpt2': ")
    for name, damage, message in (
        ("train-00000.bin", lambda content: content[:-3], "bytes instead of"),
        ("train-00000.bin", lambda content: content[:-1] + b"!", "has another sha256"),
        ("val.bin", lambda content: b"!" + content[1:], "has another sha256"),
        ("train-00000.ends.bin", lambda content: content[:-8], "bytes instead of"),
        ("val.ends.bin", lambda content: b"!" + content[1:], "has another sha256"),
        ("tokenizer.json", lambda content: content + b" ", "has another sha256"),
        ("index.json", lambda content: b"{}", "is no index of prepare.py"),
        ("index.json", lambda content: content.replace(b"train-0", b"/rain-0"), "is no index of"),
        ("index.json", lambda content: content[:-9], "can't be read"),
    ):
        copy = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        copy.mkdir()
        for file in folder.iterdir():
            content = file.read_bytes()
            (copy / file.name).write_bytes(damage(content) if file.name == name else content)
        assert message in refused(copy), name
    (copy / "index.json").write_bytes((folder / "index.json").read_bytes())
    (copy / "train-00000.bin").unlink()
    assert "train-00000.bin can't be read (No such file" in refused(copy)


@pytest.mark.long
def test_mistakes_in_flags_are_refused(folder):
    long = [f"--config.data.path={folder}", "--config.model.context_length=40000"]
    for flags, message in (
        ([], "--config.data.name=shards needs --config.data.path"),
        ([f"--config.data.path={folder}", "--config.data.field=x"], "--config.data.field=x: exp"),
        (long, "tokens of the largest file: lower it"),
        (["--config.eval.max_tokens=-1"], "--config.eval.max_tokens=-1: expected 0"),
    ):
        assert_refused(run("main.py", *FLAGS, *flags), message)
    pairs = ["--config=gpt2:smoke", "--config.data.name=made:sum", "--config.eval.max_tokens=9"]
    result = run("main.py", *pairs)
    assert result.returncode == 2 and "--config.eval.max_tokens=9: expected 0" in result.stderr
