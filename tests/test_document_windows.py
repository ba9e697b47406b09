"""Windows of a prepared corpus within documents: `data.pack=false`."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import run_folder
import train
from inference.evaluation import evaluate
from input_pipeline import batches, mixture, shards
from input_pipeline.document_windows import DocumentWindows
from input_pipeline.shards import Shards
from playground_page.page import passages
from runtime import devices
from tests import stages
from tests.command import assert_refused, run
from tests.prepared import prepare

END = stages.V - 1
# Files of documents, each of which has its end; of a file the last one may be cut before it.
FILES = st.lists(
    st.tuples(st.lists(st.integers(0, 11), min_size=1, max_size=7), st.booleans()),
    min_size=1,
    max_size=3,
)


def files_of(lengths):
    """Returns the files' token ids and ends, and what stands in each document's windows."""
    arrays, ends, spans = [], [], []
    for of_file, is_cut in lengths:
        documents = [[*(token % END for token in range(n)), END] for n in of_file]
        whole = np.array([*itertools.chain(*documents)], np.uint16)
        stops = np.cumsum([len(one) for one in documents]).astype("<u8")
        if is_cut:
            whole, stops = whole[:-1], stops[:-1]
            documents[-1].pop()
        arrays.append(whole)
        ends.append(stops)
        spans += [[END] * (place > 0) + one for place, one in enumerate(documents)]
    return arrays, ends, spans


def in_windows(spans, context_length):
    """Returns the windows of some documents by the definition, one after the other."""
    found = []
    for span in spans:
        for start in range(0, len(span) - 1, context_length):
            part = span[start : start + context_length + 1]
            found.append(part + [~0] * (context_length + 1 - len(part)))
    return found


@given(FILES, st.integers(1, 9))
def test_windows_are_those_of_each_document(lengths, context_length):
    arrays, ends, spans = files_of(lengths)
    assume(any(map(len, arrays)))
    expected = in_windows(spans, context_length)
    found = DocumentWindows(arrays, ends)
    assert len(found) == sum(map(len, arrays))
    assert found.num_windows(context_length) == len(expected)
    padding = [[~0] * (context_length + 1)] * 2
    windows = found.windows(np.arange(len(expected) + 2), context_length)
    assert windows.tolist() == expected + padding
    # Every token but a file's first is a target once.
    targets = [token for array in arrays for token in array[1:].tolist()]
    assert windows[:, 1:][windows[:, 1:] >= 0].tolist() == targets
    assert batches.size(found) == (len(found), len(targets))


@given(FILES, st.integers(1, 9), st.integers(1, 60))
def test_a_beginning_has_the_first_targets(lengths, context_length, max_tokens):
    arrays, ends, _ = files_of(lengths)
    assume(any(map(len, arrays)))
    found = DocumentWindows(arrays, ends)
    part = batches.beginning(found, max_tokens)
    targets = [token for array in arrays for token in array[1:].tolist()]
    windows = part.windows(np.arange(part.num_windows(context_length)), context_length)
    assert windows[:, 1:][windows[:, 1:] >= 0].tolist() == targets[:max_tokens]
    # Only the last window may be cut, where it is whole windows are equal.
    whole = found.windows(np.arange(len(windows)), context_length)
    assert windows[:-1].tolist() == whole[: max(len(windows) - 1, 0)].tolist()
    assert batches.beginning(found, 0) is found


@settings(max_examples=20)
@given(FILES, st.integers(1, 9))
def test_an_epoch_has_each_window_once(lengths, context_length):
    arrays, ends, spans = files_of(lengths)
    expected = sorted(in_windows(spans, context_length))
    assume(expected)
    found = DocumentWindows(arrays, ends)
    mixed = mixture.Mixture([found, found], [5000, 5000])
    assert batches.has_marks(found) and batches.has_marks(mixed)
    assert not batches.has_marks(Shards(arrays))
    rows = found.drawn(np.arange(2 * len(expected)), context_length, seed=3).tolist()
    assert sorted(rows[: len(expected)]) == sorted(rows[len(expected) :]) == expected


def scores_of(name, split):
    return evaluate(
        stages.TINY[name],
        stages.init(name, scale=3.0),
        split,
        np.ones(stages.V, int),
        batch_size=3,
        context_length=stages.T,
        mesh=devices.data_mesh(1),
    )


LENGTHS = [([5, 3, 0, 20, 1], False), ([9, 2], True)]


def test_a_table_of_bigrams_scores_alike_within_documents_and_across():
    arrays, ends, _ = files_of(LENGTHS[:1])
    across, within = (
        scores_of("bigram", arrays[0]),
        scores_of("bigram", DocumentWindows(arrays, ends)),
    )
    assert within == pytest.approx(across, rel=1e-6)


@pytest.mark.slow
def test_a_document_is_scored_as_if_it_were_alone():
    arrays, ends, spans = files_of(LENGTHS)
    together = scores_of("gpt2", DocumentWindows(arrays, ends))
    nats = count = 0
    for span in spans:
        alone = scores_of("gpt2", np.array(span))
        nats += alone["loss"] * (len(span) - 1)
        count += len(span) - 1
    assert together["loss"] == pytest.approx(nats / count, rel=1e-6)
    across = scores_of("gpt2", np.concatenate(arrays))
    assert across["loss"] != pytest.approx(together["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a corpus prepared from 60 made documents of many lengths, in bytes."""
    path = tmp_path_factory.mktemp("corpus")
    documents = [{"text": f"Document {number}: " + "to be " * (number % 7)} for number in range(60)]
    (path / "a.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in documents))
    made = prepare(path / "a.jsonl", path / "out", "--tokenizer=byte", "--val_share=0.2")
    assert made.returncode == 0, made.stderr
    return path / "out"


@pytest.mark.long
def test_a_run_within_documents_is_resumed_and_evaluated(folder, tmp_path, capsys):
    from experiments import multi_head_attention

    def config(steps):
        made = multi_head_attention.get_config("smoke")
        made.data.update(name="shards", path=str(folder), tokenizer="byte", pack=False)
        made.train.num_steps = steps
        made.optimizer.final_learning_rate = made.optimizer.learning_rate
        made.tracking.wandb_mode = "disabled"
        made.checkpoint.resume = True
        return made

    for steps, name in ((20, "whole"), (10, "stopped"), (20, "stopped")):
        train.train_and_evaluate(config(steps), tmp_path / name)
    shown = capsys.readouterr().out
    opened = shards.open_folder(str(folder), "byte")
    found = DocumentWindows(opened.train, opened.train_ends)
    T = config(20).model.context_length
    num_windows = found.num_windows(T)
    padding = 1 - sum(map(len, opened.train)) / (num_windows * T)
    assert f"windows of one document each: {num_windows:,}, {padding:.0%} of" in shown
    lines = [
        {line["step"]: line for line in run_folder.read_lines(path)}
        for path in (tmp_path / name / run_folder.METRICS for name in ("whole", "stopped"))
    ]
    for key in ("train/loss", "val/loss"):
        assert lines[0][20][key] == lines[1][20][key]
    import harness

    run_of = harness.open_run(tmp_path / "whole", "latest")
    held_out = run_of.tokenizer.decode(opened.val)
    assert all(text in held_out for text in passages(run_of.splits()["val"], run_of.tokenizer))
    assert run_of.evaluate("val")["val/loss"] == pytest.approx(lines[0][20]["val/loss"], rel=1e-6)


@pytest.mark.long
def test_a_text_has_no_windows_within_documents():
    flags = ["--config=bigram:smoke", "--config.data.pack=false"]
    assert_refused(run("main.py", *flags), "--config.data.pack=false: expected with --config.data.")
