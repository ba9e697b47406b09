"""Made texts: the generator against brute force, floors, errors, runs on them, and their report."""

import json
import math
import re
from collections import defaultdict
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import models
import run_folder
from benchmarks import induction as command
from experiments import bigram, default, gpt2, made_texts
from inference.evaluation import evaluate
from input_pipeline import corpus
from input_pipeline import made_texts as drawn
from input_pipeline.made_texts import LETTERS, NUM_TRAIN, NUM_VAL, T, V
from input_pipeline.pairs import Records
from inspection import heads, induction, interception, windows
from inspection.subject import Subject
from reporting import figures, page, records, runs, sweep_charts, sweeps
from runtime.devices import data_mesh
from runtime.errors import UserError
from tests.command import ROOT, assert_refused, run
from tests.test_sweep_report import write_sweep
from tests.vega_lite import assert_valid

UNIFORM = math.log(V)
STAGES = default.LADDER
# What the best table of pairs loses on each text: the letter before says nothing, or who follows.
OF_PAIRS = {"five_back": UNIFORM, "sum": UNIFORM, "new_table": math.log(V - 2)}


def split_of(name, split):
    """Its windows [N, T], and which letters count."""
    marked = getattr(drawn.draw(name), split).tokens.reshape(-1, T)
    return np.maximum(marked, ~marked), marked >= 0


def frequencies(name, *backs):
    """Frequencies of the letters after each tuple of letters so many places back, if they count."""
    tokens, counted = split_of(name, "train")
    # A pair that the training split lacks is rare, not impossible.
    seen = np.full([V] * (len(backs) + 1), 0.1)
    rows, places = np.nonzero(counted)
    before = [tokens[rows, places - back] for back in backs]
    np.add.at(seen, (*before, tokens[rows, places]), 1)
    return seen / seen.sum(-1, keepdims=True)


def loss_of(p, name, *backs):
    """The loss of such a table on the validation split."""
    tokens, counted = split_of(name, "val")
    rows, places = np.nonzero(counted)
    before = [tokens[rows, places - back] for back in backs]
    return -np.log(p[(*before, tokens[rows, places])])


@pytest.mark.parametrize(("name", "back"), [("previous", 1), ("five_back", 5)])
def test_a_letter_depends_on_one_place_alone(name, back):
    p = frequencies(name, back)
    nats = loss_of(p, name, back)
    floor = drawn.draw(name).val.floor
    assert nats.mean() == pytest.approx(floor, abs=0.002)
    # All letters are equally frequent, so the floor is the mean entropy of the table's rows.
    np.testing.assert_allclose(p.sum(0), 1, atol=0.03)
    entropy = -(p * np.log(p)).sum(-1).mean()
    assert abs(floor - entropy) < 4 * nats.std() / len(nats) ** 0.5
    # Two places back says no more than one.
    assert loss_of(frequencies(name, back, back - 1 or 2), name, back, back - 1 or 2).mean() > floor


def test_two_places_multiply_what_they_say():
    p = np.maximum(frequencies("two_places", 2, 5), 1e-4)
    # 4,096 rows of counts fit less well than two tables.
    fitted = loss_of(p, "two_places", 2, 5).mean()
    assert fitted == pytest.approx(drawn.draw("two_places").val.floor, abs=0.02)
    # A product of what two places say: but for a constant of the pair its logarithm is a sum of a
    # table for each place. Weighted by the counts, for a rare letter's frequency is a guess.
    logs = np.log(p) - np.log(p).mean(-1, keepdims=True)
    weights = np.where(p > 0.01, p, 0)
    two, five, of_pair = np.zeros((V, 1, V)), np.zeros((1, V, V)), np.zeros((V, V, 1))
    for _ in range(200):
        for part, axis in ((two, 1), (five, 0), (of_pair, 2)):
            rest = (weights * (logs - two - five - of_pair)).sum(axis, keepdims=True)
            part += rest / np.maximum(weights.sum(axis, keepdims=True), 1e-9)
    error = weights * (logs - two - five - of_pair) ** 2
    assert (error.sum() / weights.sum()) ** 0.5 < 0.15
    for one in (2, 5):
        assert loss_of(frequencies("two_places", one), "two_places", one).mean() > 1.9


def test_every_third_letter_is_the_sum_of_the_two_before():
    tokens, counted = split_of("sum", "val")
    for row in tokens[:200].tolist():
        for place in range(2, T, 3):
            assert row[place] == (row[place - 1] + row[place - 2]) % 16
    assert (counted == (np.arange(T) % 3 == 2)).all()
    assert drawn.draw("sum").val.floor == 0


def test_a_letter_of_a_new_table_counts_if_its_window_has_shown_it():
    tokens, counted = split_of("new_table", "val")
    orders = set()
    for row, counts in zip(tokens.tolist(), counted.tolist(), strict=True):
        followers = {}
        for place in range(T):
            now, before = row[place], row[place - 1] if place else drawn.STOP
            is_step = drawn.STOP not in (now, before)
            assert counts[place] == (is_step and before in followers)
            if is_step:  # Each letter has one follower in a window, and no two have the same.
                assert followers.setdefault(before, now) == now
        assert len(set(followers.values())) == len(followers)
        orders.add(tuple(sorted(followers.items())))
    assert len(orders) == NUM_VAL
    assert drawn.draw("new_table").val.floor == 0
    is_stop = tokens[:, 1:] == drawn.STOP
    assert (is_stop & (tokens[:, :-1] != drawn.STOP)).sum() / (
        tokens[:, :-1] != drawn.STOP
    ).sum() == pytest.approx(drawn.STOP_SHARE, abs=0.01)


@pytest.mark.parametrize("name", made_texts.IDEAS)
def test_the_best_table_of_pairs_has_the_loss_of_theory(name):
    loss = loss_of(frequencies(name, 1), name, 1).mean()
    floor = drawn.draw(name).val.floor
    if name == "two_places":  # No closed form: it knows some of one place by the other.
        assert floor + 1 < loss < UNIFORM
    else:
        assert loss == pytest.approx(OF_PAIRS.get(name, floor), abs=0.006)


@pytest.mark.parametrize("name", made_texts.IDEAS)
def test_splits_are_drawn_again_alike_and_share_no_window(name):
    made = drawn.draw(name)
    again = drawn.draw.__wrapped__(name)  # Not from memory.
    assert again is not made and again.digest == made.digest
    assert (again.val.tokens == made.val.tokens).all()
    train, val = ({row.tobytes() for row in split_of(name, one)[0]} for one in ("train", "val"))
    assert (len(train), len(val)) == (NUM_TRAIN, NUM_VAL)  # None is twice in a split.
    assert not train & val
    assert len({drawn.draw(other).digest for other in made_texts.IDEAS}) == 5


@pytest.mark.slow
def test_the_command_shows_each_text():
    """In a process of its own it draws the same texts."""
    lines = run("-m", "input_pipeline.made_texts").stdout.splitlines()
    assert len(lines) == 3 * len(made_texts.IDEAS)
    for name, (title, window, floor) in zip(
        made_texts.IDEAS, zip(*[iter(lines)] * 3, strict=True), strict=True
    ):
        assert title == f"made:{name} needs {made_texts.IDEAS[name]}"
        tokens, counted = split_of(name, "val")
        letters = window.rpartition(" ")[2]
        assert [LETTERS.index(letter.lower()) for letter in letters] == tokens[0].tolist()
        assert [letter.isupper() for letter in letters] == counted[0].tolist()
        assert f" {drawn.draw(name).val.floor:.4f} nats, over the {counted.sum():,} " in floor


def data_of(**keys):
    data = default.get_config().data
    data.update(keys)
    return data


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "made:summ"}, "'made:summ': did you mean made:sum? expected made: and one of pr"),
        ({"name": "made:"}, "--config.data.name='made:': expected made: and one of previous, five"),
        ({"name": "mad:sum"}, "tfds:<name> or made:<name>"),
        ({"path": "a.txt"}, "--config.data.path='a.txt': expected none with --config.data.name=ma"),
        ({"val_path": "b"}, "--config.data.val_path='b': expected none with"),
        ({"field": "text"}, "--config.data.field='text': expected none with"),
        ({"prompt_field": "q"}, "--config.data.prompt_field='q': expected none with"),
        ({"document_separator": "|"}, "--config.data.document_separator='|': expected none with"),
        ({"tokenizer": "gpt2"}, "--config.data.tokenizer='gpt2': expected 'char' with"),
    ],
)
def test_what_a_made_text_does_not_have_is_refused(keys, message):
    with pytest.raises(UserError) as refused:
        corpus.load(data_of(**{"name": "made:sum", **keys}))
    assert message in str(refused.value)


@pytest.mark.long
def test_a_context_without_targets_and_an_unknown_preset_are_refused():
    with pytest.raises(UserError) as refused:
        drawn.draw("sum").train.fitting(1, "to train on")
    assert str(refused.value) == (
        "--config.model.context_length=1: the windows to train on have nothing to predict in so "
        "short a context: raise it"
    )
    with pytest.raises(UserError) as refused:
        bigram.get_config("text-some")
    assert "preset 'text-some': expected one of text-previous, text-five_back" in str(refused.value)
    result = run("main.py", "--config=bigram", "--config.data.name=made:summ", "--workdir=/x")
    assert_refused(result, "--config.data.name='made:summ': did you mean made:sum?")


def test_presets_differ_in_the_text_and_the_stage_alone():
    flat = run_folder.flatten(gpt2.get_config("text-sum").to_dict())
    other = run_folder.flatten(gpt2.get_config("text-previous").to_dict())
    assert {key for key in flat if flat[key] != other[key]} == {"data.name", "tracking.group"}
    assert flat["model.dropout_rate"] == 0 and flat["model.context_length"] == T
    swept = yaml.safe_load((ROOT / "sweeps/texts.yaml").read_text())["parameters"]["config"]
    assert swept["values"] == [
        f"experiments/{stage}.py:text-{name}" for name in made_texts.IDEAS for stage in STAGES
    ]
    assert "  bigram:text-<name>: a made text: previous, five" in run("main.py", "--list").stdout


@pytest.mark.parametrize("context_length", [T, 20])
def test_an_evaluation_is_the_sum_over_the_letters_that_count(context_length):
    """In plain NumPy; a shorter context has the beginnings of the windows."""
    val = drawn.draw("new_table").val.fitting(context_length, "of val")
    table = np.random.default_rng(0).normal(size=(V, V))
    model = models.Bigram(V)
    empty = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(table, leaf.dtype), empty)
    options = dict(batch_size=48, context_length=context_length, mesh=data_mesh(48))
    scores = evaluate(model, params, val, np.ones(V, int), **options)
    tokens, counted = (array[:, : context_length + 1] for array in split_of("new_table", "val"))
    logs = np.log(np.exp(table) / np.exp(table).sum(-1, keepdims=True))
    total = sum(
        -logs[row[place - 1], row[place]]
        for row, counts in zip(tokens, counted, strict=True)
        for place in range(1, len(row))
        if counts[place]
    )
    assert scores["loss"] == pytest.approx(total / counted.sum(), rel=1e-6)


def test_the_floor_is_that_of_the_letters_in_the_context():
    made = drawn.windows("previous", "val", NUM_VAL)
    val = drawn.draw("previous").val
    assert val.floor == pytest.approx(made.nats[:, 1:].mean())
    assert val.fitting(7, "of val").floor == pytest.approx(made.nats[:, 1:8].mean())
    assert (val.text.reshape(-1, T) == made.tokens).all()


@pytest.mark.long
def test_a_run_knows_its_floor(tmp_path):
    """And its samples continue the first letters of the validation split."""
    flags = ("--config.tracking.wandb_mode=disabled", f"--workdir={tmp_path / 'run'}")
    result = run("main.py", "--config=multi_head_attention:smoke+text-sum+smoke", *flags)
    assert result.returncode == 0, result.stderr
    assert "windows: 65,536 to train on, 2,048 to validate on; no model's loss is" in result.stdout
    environment = run_folder.read_json(tmp_path / "run" / run_folder.ENVIRONMENT)
    assert environment["val_floor"] == 0
    assert environment["text_sha256"] == drawn.draw("sum").digest
    first = json.loads((tmp_path / "run" / run_folder.METRICS).read_text().splitlines()[0])
    assert first["val/loss"] == pytest.approx(UNIFORM, abs=1)
    sample = json.loads((tmp_path / "run" / run_folder.SAMPLES).read_text().splitlines()[0])
    assert sample["prompt"] == "".join(LETTERS[t] for t in split_of("sum", "val")[0][0][:2])


# The report.

GAPS = {
    ("sum", "bigram"): 2.5,
    ("sum", "gpt2"): 0.25,
    ("previous", "bigram"): 0.062,
    ("previous", "gpt2"): 0.125,
}
FLOORS = {"sum": 0.0, "previous": 1.5}


def sweep_folder(folder, gaps=GAPS, floors=FLOORS):
    """A sweep of two texts, two stages and two seeds, whose gaps differ by 0.02."""
    points = [
        {
            "config": f"experiments/{stage}.py:text-{text}",
            "config.seed": seed,
            "config.data.name": f"made:{text}",
            "config.model.name": stage,
            "stage": STAGES.index(stage) + 1,
            "value": floors[text] + gap + 0.02 * seed - 0.01,
        }
        for (text, stage), gap in gaps.items()
        for seed in (0, 1)
    ]
    write_sweep(folder, points)
    for made, point in zip(sorted(folder.glob("0*")), points, strict=True):
        path = made / run_folder.ENVIRONMENT
        floor = floors[point["config.data.name"].removeprefix("made:")]
        run_folder.write_json(path, {**run_folder.read_json(path), "val_floor": floor})
    return folder


def sweep_in(folder):
    (sweep,) = sweeps.find(runs.read_runs([folder])[0])
    return sweep


@pytest.mark.slow
def test_the_report_has_the_gaps_as_a_matrix(tmp_path):
    sweep = sweep_in(sweep_folder(tmp_path / "s"))
    found = {(one.text, one.model): one for one in sweep.gaps}
    assert {key: one.gap for key, one in found.items()} == pytest.approx(GAPS)
    assert all(one.seeds == 2 and one.floor == FLOORS[one.text] for one in sweep.gaps)
    charts = sweep_charts.charts(sweep)
    (heading,) = charts
    assert heading.startswith("Gap of each stage above the floor of each text, in nats")
    assert_valid(charts.values())
    drawing = figures.svg(charts[heading])
    for text in ("2.500", "0.250", "0.125", "(1.500)", "previous", "bigram"):
        assert text in drawing, text
    # Losses on different texts are not compared.
    assert not sweep.differences and not sweep.effects and sweep.matrix is None
    assert sweeps.statements(sweep)[1:] == [
        "sum: the floor is 0.000 nats, and no model comes within 0.1 nats of it.",
        "previous: the floor is 1.500 nats; the first model within 0.1 nats of it is bigram, 0.062 "
        "above.",
    ]
    assert "8 runs on 2 data sets" in page.heading(sweep.finished)
    rendered = page.render(sweep.finished, [(sweep, charts)], [])
    assert heading in rendered and "Best val/loss" not in rendered


@pytest.mark.parametrize("kind", ["one text", "no floor", "two settings"])
def test_other_sweeps_have_no_gaps(tmp_path, kind):
    folder = sweep_folder(tmp_path / "s")
    assert sweep_in(folder).gaps
    for made in sorted(folder.glob("0*")):
        environment = run_folder.read_json(made / run_folder.ENVIRONMENT)
        config = run_folder.read_json(made / run_folder.CONFIG)
        if kind == "one text":
            config["data"]["name"] = "made:sum"
        elif kind == "no floor":
            del environment["val_floor"]
        else:
            config["model"]["name"] = "gpt2"
        run_folder.write_json(made / run_folder.ENVIRONMENT, environment)
        run_folder.write_json(made / run_folder.CONFIG, config)
    assert sweep_in(folder).gaps == []


@pytest.mark.long
def test_the_command_writes_the_gaps(tmp_path):
    folder = sweep_folder(tmp_path / "s")
    options = [f"--{name}={tmp_path / name}" for name in ("output", "data", "figures")]
    result = run("report.py", folder, *options)
    assert result.returncode == 0, result.stderr
    assert "best val/loss" not in result.stdout and "- sum: the floor is 0.000" in result.stdout
    written = json.loads((tmp_path / "data").read_text())
    assert {(one["text"], one["model"]): one["gap"] for one in written["gaps"]} == pytest.approx(
        GAPS
    )
    assert (tmp_path / "figures/gap-of-each-stage-above-the-floor-of-each-text.svg").exists()
    assert "gaps" not in records.records(sweep_in(folder).finished, [])


# Induction.

MODEL = models.TransformerDecoder(V, T, embed_dim=12, num_heads=3, num_layers=2)
PARAMS = jax.tree.map(
    lambda leaf: 3 * leaf, MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
)


def marked(num):
    return drawn.draw("new_table").val.windows(np.arange(num), T)


@pytest.mark.slow
def test_heads_are_scored_at_the_letters_that_count():
    """Window for window, query for query."""
    texts, is_target = induction.some_windows(marked(6))
    found = induction.scores(MODEL, PARAMS, texts, is_target)
    wanted = defaultdict(list)
    for row, counts in zip(texts, is_target, strict=True):
        weights = np.asarray(heads.all_weights(MODEL, PARAMS, jnp.asarray(row[:-1])))
        for place in np.flatnonzero(counts):
            answers = [
                key
                for key in range(1, place + 1)
                if row[key - 1] == row[place] and row[key] == row[place + 1]
            ]
            assert answers  # Counted, for the window has shown it.
            wanted["previous"].append(weights[:, :, place, place - 1])
            wanted["induction"].append(weights[:, :, place, answers].sum(-1))
    for one in found:
        at = one["layer"] - 1, one["head"] - 1
        for name in induction.MASSES:
            mean = np.mean([weights[at] for weights in wanted[name]])
            assert one[name] == pytest.approx(mean, rel=1e-4)


@pytest.mark.slow
def test_a_head_costs_what_the_loss_rises_by_without_it():
    made = induction.study(MODEL, PARAMS, [(7, PARAMS)], marked(6))
    texts, is_target = induction.some_windows(marked(6))
    inputs, found = texts[:, :-1], interception.attentions(MODEL, PARAMS)

    def loss(**edits):
        logits = interception.run(MODEL, PARAMS, inputs, **edits).logits
        logs = np.asarray(jax.nn.log_softmax(logits))
        return -np.take_along_axis(logs, texts[:, 1:, None], -1)[..., 0][is_target].mean()

    assert made["loss"] == pytest.approx(loss(), rel=1e-5)
    for row in made["heads"]:

        def without(i, x, row=row):
            if i != row["layer"] - 1:
                return x
            head = row["head"] - 1
            return x.at[:, :, head].set(x[:, :, head].mean((0, 1)))

        expected = loss(**interception.head_edits(found, without))
        assert row["loss_without"] == pytest.approx(expected, rel=1e-4)
        assert row["cost"] == pytest.approx(expected - loss(), abs=1e-4)
    (snapshot,) = made["steps"]
    assert (
        snapshot["step"] == 7 and snapshot["heads"][0]["previous"] == made["heads"][0]["previous"]
    )


def test_the_greatest_fall_is_within_a_span():
    curve = [(0, 9.0), (50, 8.0), (100, 7.9), (150, 3.0), (200, 2.0), (300, 1.0)]
    fall = command.greatest_fall(curve)
    assert (fall["from_step"], fall["to_step"]) == (100, 200)
    assert (fall["from_loss"], fall["to_loss"]) == (7.9, 2.0)
    assert command.greatest_fall([(0, 2.0), (500, 1.0)])["to_step"] == 500


def test_windows_of_a_made_text_begin_at_its_windows():
    val = drawn.draw("sum").val
    subject = Subject("x", None, None, None, T, drawn.draw("sum").train, val).check()
    assert (subject.tokens == val.text).all() and len(subject.train) == NUM_TRAIN * T
    for row in windows.spread(subject.tokens, T):
        place = np.flatnonzero((val.text.reshape(-1, T) == row[:T]).all(-1))
        assert len(place) == 1  # A whole window, then the first letter of the next.
        assert row[T] == val.text[(place[0] + 1) * T]
    assert isinstance(val, Records)


# What was measured.

MEASURED = json.loads((ROOT / "docs/measured/texts.json").read_text())
PAGE = (ROOT / "docs/texts.md").read_text()
CELLS = {(one["text"], one["model"]): SimpleNamespace(**one) for one in MEASURED["gaps"]}


def test_no_stage_is_below_a_floor_and_the_table_of_pairs_is_at_its_own():
    assert set(CELLS) == {(text, stage) for text in made_texts.IDEAS for stage in STAGES}
    for (text, stage), cell in CELLS.items():
        assert cell.floor == pytest.approx(drawn.draw(text).val.floor)
        # What a model of 2**11 windows may gain by chance.
        assert cell.gap > -0.003, (text, stage)
        if stage == "bigram":
            best = loss_of(frequencies(text, 1), text, 1).mean()
            assert cell.gap + cell.floor == pytest.approx(best, abs=0.01)
    for one in MEASURED["runs"]:
        assert one["val/loss"] is not None


def test_each_text_is_learned_from_the_stage_on_that_has_its_idea():
    needed = dict(zip(made_texts.IDEAS, (0, 1, 2, 3, 3), strict=True))
    for text, first in needed.items():
        gaps = [CELLS[text, stage].gap for stage in STAGES]
        assert max(gaps[first:]) < 0.1 < 0.4 < min(gaps[:first], default=1), (text, gaps)


def test_the_page_has_the_gaps_that_were_measured():
    rows = re.findall(r"^\| `(\w+)` \| (\d\.\d{3}) \| (.*) \|$", PAGE, re.MULTILINE)
    assert [text for text, *_ in rows] == [*made_texts.IDEAS]
    for text, floor, gaps in rows:
        assert float(floor) == pytest.approx(CELLS[text, "gpt2"].floor, abs=0.0006)
        shown = [float(gap.strip("*")) for gap in gaps.split(" | ")]
        wanted = [CELLS[text, stage].gap for stage in STAGES]
        assert shown == pytest.approx(wanted, abs=0.0006)


INDUCTION = json.loads((ROOT / "docs/measured/induction.json").read_text())["runs"]


def test_two_blocks_learn_a_new_table_suddenly_and_one_never():
    two, one = (INDUCTION[name] for name in command.FORMS)
    fall = two["greatest_fall"]
    assert fall["from_loss"] - fall["to_loss"] > 1 and two["val/loss"] < 0.1
    assert min(one["curve"]["val/loss"]) > 2
    curve = list(zip(two["curve"]["step"], two["curve"]["val/loss"], strict=True))
    assert command.greatest_fall(curve) == fall


def test_the_page_has_the_heads_that_were_measured():
    two = INDUCTION["two_blocks"]
    rows = re.findall(r"^\| (\d) \| (\d) \| (\S+) \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
    wanted = [
        [one[key] for key in ("layer", "head", *induction.MASSES, "cost")] for one in two["heads"]
    ]
    assert np.array(rows, float) == pytest.approx(np.array(wanted), abs=0.0006)
    ((first, last),) = re.findall(r"head (\d) of block 1.*head (\d) of block 2, the answer", PAGE)
    shown = re.findall(r"^\| (\d+) \| (\d\.\d+) \| (\d\.\d+) \|$", PAGE, re.MULTILINE)
    assert len(shown) > 5
    for step, previous, answer in shown:
        (heads_then,) = (one["heads"] for one in two["steps"] if one["step"] == int(step))
        by_place = {(one["layer"], one["head"]): one for one in heads_then}
        assert float(previous) == pytest.approx(by_place[1, int(first)]["previous"], abs=0.0006)
        assert float(answer) == pytest.approx(by_place[2, int(last)]["induction"], abs=0.0006)
