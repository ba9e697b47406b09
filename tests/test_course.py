"""Pages of the stages: one shape, tables of what was measured, and claims that it bears out."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
import scipy

from course import measured, stages
from experiments.default import LADDER
from reporting import statistics

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / f"docs/stages/{stage}.md" for stage in range(1, 6)]
SECTIONS = [
    "The idea",
    "The formula",
    "The code that is new",
    "What it bought",
    "The idea taken away",
    "A text that needs it",
    "Inside it",
    "A sample",
    "Exercises",
    "Further reading",
]


def file(name):
    return measured.read(ROOT, name)


def cells(table):
    """The rows of a markdown table below its header."""
    return [line.strip("|").split("|") for line in table.replace(" ", "").splitlines()[2:]]


def is_bold(cell):
    return cell.startswith("**")


def losses(name, **where):
    """The final losses of a file's runs that have these values, by their idea."""
    found = {}
    for run in file(name).runs():
        if all(run[key] == value for key, value in where.items()):
            found.setdefault(measured.label(run).partition("without_")[2], []).append(
                run["val/loss"]
            )
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_page_has_one_shape_and_explains_its_idea_shortly(page):
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert text.splitlines()[2].startswith("**") and text.splitlines()[2].endswith("?**")
    idea = text.split("## The idea\n")[1].split("\n## ")[0]
    assert len(idea.split()) <= 200


@pytest.mark.parametrize("stage", LADDER[1:])
def test_what_a_stage_bought_is_what_the_report_found(stage):
    before = LADDER[LADDER.index(stage) - 1]
    comparison = file("compare_stages_equal_flops")
    for row, optimizer in zip(
        cells(stages.bought(comparison, stage)), ("adamw", "muon"), strict=True
    ):
        (finding,) = (
            one
            for one in comparison.content["findings"]
            if one.startswith(f"With {optimizer}, {stage} has a lower loss than {before} ")
        )
        at = re.search(r"([+-]\d\.\d{3}) at 3e12", finding)
        # A stage that is at its floor before has the loss of its floor.
        assert row[5].strip("*") == at[1]
        means = [
            fmean(run["val/loss"] for run in stages.at_budget(comparison, one, optimizer))
            for one in (before, stage)
        ]
        assert [row[3], row[4]] == [f"{mean:.3f}" for mean in means]


@pytest.mark.parametrize("stage", LADDER[1:])
def test_a_stage_without_an_idea_is_compared_with_the_stage_by_welchs_test(stage):
    groups = losses("ideas", **{"model.name": stage})
    assert all(len(values) == 3 for values in groups.values()) and len(groups) > 3
    first, *rows = cells(stages.without(file("ideas"), stage))
    assert first[1] == f"{fmean(groups['']):.3f}"
    ideas = [idea for idea in groups if idea]
    p_values = [
        scipy.stats.ttest_ind(groups[idea], groups[""], equal_var=False).pvalue for idea in ideas
    ]
    verdicts = statistics.holm(p_values)
    for row, idea, verdict in zip(rows, ideas, verdicts, strict=True):
        assert row[0] == f"without{idea.replace('_', '')}"
        assert row[1] == f"{fmean(groups[idea]):.3f}"
        assert row[2].strip("*") == f"{fmean(groups[idea]) - fmean(groups['']):+.3f}"
        assert is_bold(row[2]) == verdict


def test_changes_by_setting_are_those_of_the_runs():
    runs = file("ideas_by_depth").runs()
    columns = {"blocks": "model.num_layers", "rate": "optimizer.learning_rate"}
    rows = cells(stages.changes(file("ideas_by_depth"), columns))
    assert [row[:2] for row in rows] == [
        [f"{num_layers}", f"{rate}"] for num_layers in (2, 8) for rate in (0.001, 0.003, 0.01)
    ]
    for row in rows:

        def of(idea, row=row):
            return [
                run["val/loss"]
                for run in runs
                if f"{run['model.num_layers']}" == row[0]
                and f"{run['optimizer.learning_rate']:g}" == row[1]
                and run["model.without"] == idea
            ]

        assert row[2] == f"{fmean(of('')):.3f}"
        for cell, idea in zip(row[3:], ("layer_norm", "projection", "scale"), strict=True):
            assert len(of(idea)) == 3
            assert cell.strip("*") == f"{fmean(of(idea)) - fmean(of('')):+.3f}"


@pytest.mark.parametrize("place", range(1, 5))
def test_gains_by_kind_add_up_to_the_fall_of_the_loss(place):
    inside = file("inside")
    runs = {run["name"]: run["loss"] for run in inside.content["runs"]}
    *kinds, together = cells(stages.kinds(inside, LADDER[place]))
    fall = runs[LADDER[place - 1]] - runs[LADDER[place]]
    assert float(together[1].strip("*")) == pytest.approx(fall, abs=6e-4)
    assert sum(float(row[1]) for row in kinds) == pytest.approx(fall, abs=6e-3)


def test_measured_files_name_the_machine_and_the_commit():
    for path in (ROOT / "docs/measured").glob("*.json"):
        content = json.loads(path.read_text())
        if "machines" in content:
            assert all(one["device"] and one["git_commit"] for one in content["machines"]), path


def change(stage, idea):
    """The difference of a stage without an idea from the stage, and if it is significant."""
    rows = {row[0]: row for row in cells(stages.without(file("ideas"), stage))}
    row = rows[f"without{idea.replace('_', '')}"]
    return float(row[2].strip("*")), is_bold(row[2])


def gap(text, stage):
    (found,) = (
        one["gap"]
        for one in file("texts").content["gaps"]
        if (one["text"], one["model"]) == (text, stage)
    )
    return found


PAGE_TEXT = {page.stem: " ".join(page.read_text().split()) for page in PAGES}


def assert_borne_out(claims):
    """Asserts that each sentence is on its page, and that what it stands on holds."""
    for (page, sentence), holds in claims.items():
        assert sentence in PAGE_TEXT[page], (page, sentence)
        assert holds, (page, sentence)


def test_claims_about_the_first_stages_are_borne_out():
    single, heads = LADDER[1:3]
    inside = {run["name"]: run for run in file("inside").content["runs"]}
    scale, steady = (losses("ideas", **{"model.name": single})[idea] for idea in ("scale", ""))
    gained = sum(inside[single]["gains"].values())
    counted = file("inside").content["n_grams"]["2"]
    one_head = fmean(losses("ideas", **{"model.name": heads})["heads"])
    spreads = [max(values) - min(values) for values in (scale, steady)]
    assert_borne_out(
        {
            ("1", "The table has learnt the counts"): abs(inside["bigram"]["loss"] - counted)
            < 0.01,
            ("2", "**Without the mask** the loss falls to almost nothing"): change(single, "mask")[
                0
            ]
            < -2,
            ("2", "**Without positions** four fifths of what attention gained is lost"): change(
                single, "positions"
            )[0]
            == pytest.approx(0.8 * gained, abs=0.01),
            ("2", "**Without the scale** the result depends on luck"): spreads[0] > 5 * spreads[1]
            and not change(single, "scale")[1],
            ("2", "letters from the fourth on get *worse*"): inside[single]["gains"][
                "letters 4 and later"
            ]
            < 0,
            ("3", "**One head** with as many parameters is no better than stage 2"): one_head
            > fmean(steady),
            ("3", "Here the difference is within the noise of seeds"): not change(
                heads, "projection"
            )[1],
            ("3", "**The scale** makes no difference that three seeds could show"): not change(
                heads, "scale"
            )[1],
        }
    )


def test_claims_about_the_last_stages_are_borne_out():
    decoder, gpt2 = LADDER[3:]
    order = ["positions", "mlp", "layer_norm", "residual", "heads"]
    gains = [change(decoder, idea) for idea in order]
    unneeded = ("gelu", "biases", "initialization", "tied_embeddings")
    assert_borne_out(
        {
            ("4", "positions, the MLP, LayerNorm, the residual stream, heads"): gains
            == sorted(gains, reverse=True)
            and all(significant for _, significant in gains),
            ("4", "**The scale and the output projection** make no difference"): not any(
                change(decoder, idea)[1] for idea in ("scale", "projection")
            ),
            ("5", "none of the four makes a difference that three seeds can show"): not any(
                change(gpt2, idea)[1] for idea in unneeded
            ),
        }
    )


def test_claims_about_depth_and_optimizer_are_borne_out():
    depths = {"blocks": "model.num_layers", "rate": "optimizer.learning_rate"}
    by_depth = cells(stages.changes(file("ideas_by_depth"), depths))
    lengths = {"optimizer": "optimizer.name", "FLOPs": "train.flops"}
    by_length = cells(stages.changes(file("ideas_by_length"), lengths))
    norm_by_depth = [float(row[3].strip("*")) for row in by_depth]
    norm, scale = ([float(row[place].strip("*")) for row in by_length] for place in (3, 4))
    assert_borne_out(
        {
            (
                "4",
                "*without* LayerNorm is ahead at both depths and at each rate, most with eight",
            ): max(norm_by_depth) < 0 and sum(norm_by_depth[3:]) < sum(norm_by_depth[:3]),
            ("4", "the scale, which hardly mattered above, matters in each row"): all(
                is_bold(row[5]) for row in by_depth
            ),
            ("4", "with AdamW the decoder is better without LayerNorm, with Muon it is worse"): all(
                is_bold(row[3]) for row in by_length
            )
            and max(norm[:2]) < 0 < min(norm[2:]),
            ("4", "The scale is worth more with AdamW than with Muon"): min(scale[:2])
            > max(scale[2:]),
        }
    )


def test_each_text_is_learnt_from_the_stage_on_that_has_its_idea():
    needs = (("five_back", 1), ("two_places", 2), ("sum", 3), ("new_table", 3))
    for name, stage in needs:
        assert gap(name, LADDER[stage]) < 0.1 < 0.5 < gap(name, LADDER[stage - 1])
