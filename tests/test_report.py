"""report.py as a user runs it: the table, the page in a browser, and errors."""

import cProfile
import csv
import fcntl
import html
import io
import json
import math
import os
import pstats
import pty
import random
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_folder
from experiments import default
from reporting import charts, figures, groups, page, rows, runs, staircase
from tests import browser
from tests.command import assert_refused
from tests.forked import run
from tests.vega_lite import assert_valid
from tracking import dashboard

ROOT = Path(__file__).parents[1]
LN_65 = math.log(65)
VOCABULARY = "".join(map(chr, range(40, 105)))

# Name, last loss, updates, tokens and FLOPs an update, milliseconds an update, parameters.
LADDER = (
    ("bigram", 2.487, 2000, 1024, 2.7e5, 0.4, 4_225),
    ("self_attention", 2.309, 3000, 1024, 1.6e8, 4.0, 70_000),
    ("multi_head_attention", 1.951, 2500, 1024, 9.7e8, 9.0, 340_000),
    ("transformer_decoder", 1.702, 2000, 1024, 3.9e9, 20.0, 612_000),
    ("gpt2", 1.583, 2200, 1536, 7.4e9, 31.0, 818_000),
)
NOTES = (
    "a V x V table: the next token from the current one alone",
    "positions and one causal head: a token looks back at the text",
    "16 heads in parallel, each with its own subspace, and an output projection",
    "blocks to stack: skip connections, LayerNorm, an MLP of 4 times the width",
    "GPT-2's choices: GELU, its initialisation, tied embeddings, dropout",
)
TEXTS = (
    "Pth k;aWq:\nxE!Ruj-Zz'mN",
    "Thes, wour mer he ind atee\nAng thand the",
    "KING RICHEN:\nWhat shall with the come of me\nAnd the parder to thy",
    "KING RICHARD III:\nWhat, shall the world be so?\nThen let him come, and bear the crown",
)


def write_run(
    folder: Path,
    stage: int,
    *,
    config: dict | None = None,
    status: str = "done",
    prompt: str = "\n",
    text: str = "",
) -> Path:
    """Writes a run folder as training leaves it, of a stage of the ladder, changed by `config`."""
    name, last_loss, num_steps, tokens, flops, milliseconds, num_params = LADDER[stage - 1]
    settings = default.get_config()
    settings.tracking.stage = stage
    settings.tracking.notes = NOTES[stage - 1]
    settings.model.name = name
    settings.train.num_steps = num_steps
    settings.update_from_flattened_dict(config or {})
    rng = random.Random(f"{name} {settings.seed}")
    last_loss += rng.gauss(0, 0.01)

    folder.mkdir(parents=True)
    run_folder.write_json(folder / run_folder.CONFIG, json.loads(settings.to_json()))
    environment = {"device": "cpu", "git_commit": "0123456789abcdef", "git_dirty": False}
    run_folder.write_json(folder / run_folder.ENVIRONMENT, environment)
    tokenizer = {"name": "char", "vocabulary": VOCABULARY}
    run_folder.write_json(folder / run_folder.TOKENIZER, tokenizer)
    line = {}
    for step in range(0, num_steps + 1, 50):
        loss = last_loss + (LN_65 - last_loss) / (1 + step / 60) ** (1 + step / num_steps)
        line = {
            "step": step,
            "tokens_seen": step * tokens,
            "train_flops": step * flops,
            "seconds": step * milliseconds / 1000,
        }
        if step:
            line |= {"train/loss": loss + rng.gauss(-0.03, 0.06), "train/grad_norm": 0.5}
        if step % 250 == 0 or step == num_steps:
            line |= {
                "val/loss": loss,
                "val/perplexity": math.exp(loss),
                "val/bits_per_byte": loss / math.log(2),
            }
            written = text or TEXTS[min(stage, step // 500 + 1, len(TEXTS)) - 1]
            sample = {"step": step, "prompt": prompt, "text": f"{written}\n" * 4}
            run_folder.append_line(folder / run_folder.SAMPLES, sample)
        run_folder.append_line(folder / run_folder.METRICS, line)
    summary = {**line, "num_params": num_params, "status": status}
    run_folder.write_json(folder / run_folder.SUMMARY, summary)
    return folder


def write_ladder(folder: Path) -> Path:
    """Writes a run of each stage."""
    for stage, (name, *_) in enumerate(LADDER, start=1):
        write_run(folder / name, stage)
    return folder


def report(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Runs report.py in a folder."""
    return run(str(ROOT / "report.py"), *arguments, cwd=cwd)


def gain_of(run: runs.Run, found: list[runs.Run]) -> str:
    """Returns the text about a run's gain among those that were found."""
    return rows.gain_text(run, rows.baseline(run, found))


def rows_of(table: str) -> dict[str, list[str]]:
    """Returns the rows of a printed table by their first cell; two spaces separate cells."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows if row[1:]}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory) -> Path:
    """Returns a folder that holds the runs in `ladder`, report.html, and its output, report.txt."""
    folder = tmp_path_factory.mktemp("report")
    write_ladder(folder / "ladder")
    for name in ("bigram", "gpt2"):
        offline = folder / "ladder" / name / f"wandb/offline-run-20260101_000000-{name}"
        offline.mkdir(parents=True)
        (offline / f"run-{name}.wandb").touch()
    done = report("ladder", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "report.txt").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_the_table_compares_the_stages_in_their_order(ladder):
    table = (ladder / "report.txt").read_text()
    rows = rows_of(table)
    assert [name for name in rows if name in dict.fromkeys(row[0] for row in LADDER)] == [
        row[0] for row in LADDER
    ]
    lines = list(run_folder.read_lines(ladder / "ladder/gpt2" / run_folder.METRICS))
    train_loss = [line["train/loss"] for line in lines if line["step"] > 0.9 * 2200]
    loss, before = lines[-1]["val/loss"], 0.0
    for line in run_folder.read_lines(ladder / "ladder/transformer_decoder" / run_folder.METRICS):
        before = line.get("val/loss", before)
        ratio = lines[-1]["train_flops"] / line["train_flops"] if line["step"] else None
    assert rows["gpt2"] == [
        "818,000",
        "3.38M",
        "1.6e13",
        "68.2",
        f"{sum(train_loss) / len(train_loss):.3f}",
        f"{loss:.3f}",
        f"{loss / math.log(2):.3f}",
        "GPT-2's choices: GELU, its",
        f"{loss - before:+.2f} nats ({ratio:.2g}x FLOPs)",
    ]
    first = next(run_folder.read_lines(ladder / "ladder/bigram" / run_folder.METRICS))
    assert first["val/loss"] == pytest.approx(LN_65)
    assert rows["bigram"][-1].startswith("-1.6")  # From ln 65.
    assert "\x1b" not in table


@pytest.mark.slow
def test_the_printed_commands_find_the_offline_runs(ladder):
    table = (ladder / "report.txt").read_text()
    assert "report: report.html\n" in table
    # This shell finds the programs, in an activated environment or not.
    python, folder = re.search(r"terminal: (\S+) -m tracking.dashboard (\S+)\n", table).groups()
    wandb, pattern = re.search(r"upload them: (\S+) sync (\S+)\n", table).groups()
    for program in (python, wandb):
        assert shutil.which(program, path=os.environ["PATH"]) or (ladder / program).is_file()
    found = dashboard.offline_runs([ladder / folder])
    assert set(found) == {"bigram", "gpt2"}
    listed = shell(f"ls -d {pattern}", ladder).split()
    assert sorted(ladder / path for path in listed) == sorted(x.parent for x in found.values())
    assert set(dashboard.offline_runs([ladder / "ladder/gpt2"])) == {"gpt2"}

    alone = report("ladder/gpt2/", "--output=alone.html", cwd=ladder).stdout
    assert "-m tracking.dashboard ladder/gpt2\n" in alone
    assert "wandb sync ladder/gpt2/wandb/offline-run-*\n" in alone


def test_parts_of_a_resumed_run_have_names_of_their_own(tmp_path):
    for time in ("20260102_000000-b", "20260101_000000-a"):
        folder = tmp_path / f"one run/wandb/offline-run-{time}"
        folder.mkdir(parents=True)
        (folder / f"run-{time[-1]}.wandb").touch()
    found = dashboard.offline_runs([tmp_path])
    assert [path.stem for path in found.values()] == ["run-a", "run-b"]
    assert list(found) == ["one_run", "one_run-2"]


def test_a_folder_without_offline_runs_is_refused(tmp_path):
    assert_refused(run("-m", "tracking.dashboard", str(tmp_path)), "no offline W&B run in ")
    assert_refused(run("-m", "tracking.dashboard"), "no offline W&B run in no folder")


def shell(command: str, cwd: Path) -> str:
    """Returns the output of a shell command."""
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.long
def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_number(ladder):
    read_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    command = [sys.executable, str(ROOT / "report.py"), "ladder", "--output=narrow.html"]
    with subprocess.Popen(command, cwd=ladder, stdout=terminal) as process:
        os.close(terminal)
        printed = b""
        try:
            while chunk := os.read(read_end, 4096):
                printed += chunk
        except OSError:
            pass  # The end of a terminal's output on Linux.
    os.close(read_end)
    assert process.returncode == 0
    table = re.sub(r"\x1b\[[0-9;]*m", "", printed.decode())
    assert max(map(len, table.split("report: ")[0].splitlines())) <= 80
    row = rows_of((ladder / "report.txt").read_text())["multi_head_attention"]
    assert rows_of(table)["multi_head_attention"] == [*row[5:7], row[-1]]


@pytest.mark.slow
def test_runs_that_did_not_end_well_are_compared_by_what_they_left(tmp_path):
    killed = write_run(tmp_path / "runs/killed", 1)
    (killed / run_folder.SUMMARY).unlink()
    (killed / run_folder.SAMPLES).unlink()
    (killed / run_folder.ENVIRONMENT).unlink()
    (killed / run_folder.TOKENIZER).unlink()
    with open(killed / run_folder.METRICS, "a") as file:
        file.write('{"step": 2050, "val/lo')
    diverged = write_run(tmp_path / "runs/diverged", 2, status="diverged")
    last = {"step": 3001, "train/loss": math.nan, "val/loss": math.inf}
    run_folder.append_line(diverged / run_folder.METRICS, last)
    # Two levels down, and given twice.
    write_run(tmp_path / "runs/more/overfitted", 3)
    last = {"step": 2501, "val/loss": 2.5, "val/bits_per_byte": 3.6, "train/loss": 1.0}
    run_folder.append_line(tmp_path / "runs/more/overfitted" / run_folder.METRICS, last)

    done = report("runs", "runs/killed", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wandb" not in done.stdout
    rows = rows_of(done.stdout)
    assert [name for name in rows if "(" in name or "/" in name] == [
        "killed (running or killed, step 2,000)",
        "diverged (diverged, step 3,001)",
        "more/overfitted",
    ]
    assert rows["killed (running or killed, step 2,000)"][0] == "–"
    assert rows["diverged (diverged, step 3,001)"][4:6] == ["–", "not finite (best 2.320)"]
    assert rows["more/overfitted"][5] == "2.500 (best 1.942)"
    page = (tmp_path / "report.html").read_text()
    assert "no sample yet" in page
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]


BROKEN = {
    "a": (run_folder.CONFIG, "{", "can't be read: Expecting property name"),
    "b": (run_folder.CONFIG, "[1]", "can't be read: expected a JSON object, not [1]"),
    "c": (run_folder.METRICS, '{"step": 1}\n{"st\n', ", line 2 can't be read: "),
    "d": (run_folder.METRICS, '{"loss": 1}\n', ", line 1 can't be read: expected an object with"),
    "e": (run_folder.METRICS, "", " holds no measurement: the run never began"),
    "f": (run_folder.SAMPLES, "[]\n", ", line 1 can't be read: expected an object with a step"),
}


def write_broken_runs(folder: Path) -> None:
    """Writes a run for each of `BROKEN`."""
    for name, (file, content, _) in BROKEN.items():
        (write_run(folder / name, 1) / file).write_text(content)


@pytest.mark.slow
def test_broken_runs_are_named_and_the_others_compared(tmp_path):
    write_broken_runs(tmp_path / "runs")
    write_run(tmp_path / "runs/good", 1)
    done = report("runs", cwd=tmp_path)
    assert done.returncode == 0
    assert "good" in rows_of(done.stdout)
    warnings = done.stderr.splitlines()
    page = html.unescape((tmp_path / "report.html").read_text())
    for warning, (name, (file, _, complaint)) in zip(warnings, BROKEN.items(), strict=True):
        assert warning.startswith(f"warning: left out: runs/{name}/{file}")
        assert complaint in warning
        assert warning.removeprefix("warning: left out: ") in page


# Odd content of a run's files, as other programs, disks and people leave it: the file, the key, its
# value. A key of None stands for the whole text.
ODD_STEPS = [math.inf, math.nan, -1, 0.5, 10**30, True, "3", None, [1]]
LEFT_OUT = [
    *((run_folder.METRICS, "step", step) for step in ODD_STEPS),
    (run_folder.SAMPLES, "step", -1),
    *(
        (run_folder.METRICS, None, text)
        for text in ("[1]\n", "{\n", "[" * 10**5 + "\n", "\xff\n", "")
    ),
    (run_folder.CONFIG, None, "[]"),
    (run_folder.SUMMARY, None, "{"),
]
COMPARED = [
    *((run_folder.METRICS, "val/loss", x) for x in (math.inf, 10**400, 1e308, -5, "low", [], None)),
    *((run_folder.METRICS, "train/loss", x) for x in (-math.inf, 1e308, True, {})),
    *((run_folder.METRICS, "seconds", x) for x in (-1, math.nan, "slow")),
    *((run_folder.METRICS, "train_flops", x) for x in (0, -1, 10**400)),
    *((run_folder.SAMPLES, "text", x) for x in (None, [1], "\x1b[2J")),
    (run_folder.SAMPLES, "prompt", {}),
    *((run_folder.TOKENIZER, "vocabulary", x) for x in ("a", "", ["a"], 7)),
    *((run_folder.SUMMARY, key, x) for key in ("status", "num_params") for x in ([], 10**400)),
    *((run_folder.CONFIG, "model", x) for x in ("gpt2", None, {"name": ["gpt2"]}, {"name": {}})),
    *((run_folder.CONFIG, "data", x) for x in ({"tokenizer": ["char"]}, {"name": [["x"]]})),
    *((run_folder.CONFIG, "tracking", x) for x in ({"stage": math.inf}, {"stage": "5"}, [])),
    *((run_folder.ENVIRONMENT, "command", x) for x in ([1, None], "main.py")),
    (run_folder.ENVIRONMENT, "device", {"name": "cpu"}),
    *((run_folder.SWEEP, "parameters", x) for x in (["config.seed"], {"x": [1]}, {"x": {"y": 1}})),
    *((run_folder.SWEEP, "parameters", {"x": x}) for x in (math.nan, 10**400, "1e-4", True, None)),
    (run_folder.SWEEP, "sweep_id", ["s"]),
]


def make_odd(folder, file, key, value):
    """Changes the last line of a record, or the object in a file."""
    if key is None:
        (folder / file).write_text(value, encoding="latin-1")
        return
    *before, last = (folder / file).read_text().splitlines() if file.endswith("l") else [""]
    content = json.loads(last or (folder / file).read_text())
    (folder / file).write_text("\n".join([*before, json.dumps({**content, key: value})]) + "\n")


@pytest.mark.long
def test_no_run_keeps_the_others_from_being_compared(tmp_path):
    write_run(tmp_path / "all/good", 1)
    for i, (file, key, value) in enumerate([*LEFT_OUT, *COMPARED]):
        folder = tmp_path / f"all/odd-{i:02}"
        shutil.copytree(tmp_path / "all/good", folder)
        run_folder.write_json(
            folder / run_folder.SWEEP, {"sweep_id": "s", "parameters": {"x": i, "y": i % 2}}
        )
        make_odd(folder, file, key, value)
    result = report("all", "--output=page.html", "--data=data.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    warnings = result.stderr.splitlines()
    assert len(warnings) == len(LEFT_OUT), result.stderr
    for i, (file, *_) in enumerate(LEFT_OUT):
        assert warnings[i].startswith("warning: left out: ")
        assert f"all/odd-{i:02}/{file}" in warnings[i]
    found = {one["name"] for one in json.loads((tmp_path / "data.json").read_text())["runs"]}
    assert found == {"good", *(f"odd-{len(LEFT_OUT) + i:02}" for i in range(len(COMPARED)))}


@pytest.mark.long
def test_the_page_links_the_models_where_they_are(tmp_path):
    """Relative to the page, whatever the folder is called."""
    folder = tmp_path / 'a "b"&#c'
    write_run(folder / "one", 1)
    (tmp_path / "pages").mkdir()
    without = report(folder.name, "--output=pages/page.html", cwd=tmp_path)
    assert without.returncode == 0, without.stderr
    assert "<a href" not in (tmp_path / "pages/page.html").read_text()
    (folder / run_folder.PLAYGROUND).write_text("the models")
    for output in ("pages/page.html", f"{folder.name}/page.html"):
        assert report(folder.name, f"--output={output}", cwd=tmp_path).returncode == 0
        links = re.findall('<a href="(.*?)"', (tmp_path / output).read_text())
        (target,) = {(tmp_path / output).parent / unquote(html.unescape(link)) for link in links}
        assert target.read_text() == "the models"


def test_numbers_as_text_are_numbers(tmp_path):
    texts = {"1e-4": 1e-4, "3.0E+2": 300.0, "-7": -7, "0": 0, ".5": 0.5, "1e999": "1e999"}
    for text, value in texts.items():
        folder = write_run(tmp_path / text, 1)
        run_folder.write_json(
            folder / run_folder.SWEEP, {"sweep_id": "s", "parameters": {"x": text}}
        )
        assert runs.read_run(folder, "").swept == {"x": value}
    for word in ("gpt2", "1_000", "nan", "inf", "0x10", " 1", "1,5", "bpe:512", ""):
        assert runs.as_parameter(word) == word


LOSSES = st.lists(st.floats(-10, 10) | st.none() | st.just(math.nan), min_size=1, max_size=90)


@given(records=st.lists(LOSSES, min_size=1, max_size=4), most=st.integers(0, 60))
def test_thin_records_keep_ends_and_extremes_and_the_same_steps(records, most):
    records = [
        [{"step": 5 * i, "a": value, "b": (i + n) % 7} for i, value in enumerate(values)]
        for n, values in enumerate(records)
    ]
    thinned = runs.thin(records, ["a", "b"], most)
    whole = {line["step"] for kept in thinned for line in kept[1:-1]}
    for lines, kept in zip(records, thinned, strict=True):
        assert len(kept) <= max(most, 2)
        assert [kept[0], kept[-1]] == [lines[0], lines[-1]]
        steps = [line["step"] for line in kept]
        assert steps == sorted(set(steps))
        assert set(steps) >= whole & {line["step"] for line in lines}
    if most >= 6:
        for metric in ("a", "b"):
            every, left = (
                [
                    x
                    for lines in some
                    for line in lines
                    if (x := runs.number(line[metric])) is not None
                ]
                for some in (records, thinned)
            )
            assert not every or (min(left), max(left)) == (min(every), max(every))


def test_a_step_that_a_damaged_record_has_often_counts_once():
    assert runs.thin([[{"step": 0, "a": i} for i in range(99)]], ["a"], 9) == [
        [{"step": 0, "a": 98}]
    ]


@pytest.mark.long
def test_every_spec_of_a_ladder_is_valid(ladder, tmp_path):
    found, _ = runs.read_runs([ladder / "ladder"])
    assert_valid([*charts.curves(found, charts.points(found)).values(), staircase.ladder(found)])
    write_run(tmp_path / "seed 1", 5, config={"seed": 1})
    seeds = [found[-1], *runs.read_runs([tmp_path])[0]]
    shown = [figures.curve(seeds, loss, "tokens") for loss in charts.LOSSES]
    assert_valid([*shown, charts.bits_chart(seeds)])


@pytest.mark.slow
def test_work_grows_with_the_number_of_runs(ladder):
    """Counts calls of functions: twice the runs of a sweep, with their seeds, at most twice."""
    found, _ = runs.read_runs([ladder / "ladder"])

    def calls(count):
        made = []
        for i in range(count):
            run, rate = found[i % len(found)], i // 15
            config = {**run.config, "seed": i, "optimizer.learning_rate": rate}
            command = ["main.py", f"--config.optimizer.learning_rate={rate}", f"--config.seed={i}"]
            made.append(replace(run, name=f"{i}", config=config, environment={"command": command}))
        with cProfile.Profile() as profile:
            rows.table(made)
            charts.points(made)
        return pstats.Stats(profile).total_calls

    few, some, many = (calls(count) for count in (60, 120, 240))
    assert many - some < 2.1 * (some - few)


@pytest.mark.long
def test_many_long_runs_make_a_page_below_ten_megabytes(tmp_path):
    """Their losses have a peak in one line, which the page shows."""
    line = {
        "train/grad_norm": 0.5,
        "val/perplexity": 9.87654321,
        "train/tokens_per_second": 12345.6,
    }
    lines = []
    for step in range(1000):
        loss = 4 - step / 500 + 5 * (step == 537)
        losses = {"train/loss": loss, "val/loss": loss, "val/bits_per_byte": loss / 0.7}
        position = {"tokens_seen": 1e3 * step, "train_flops": 1e9 * step, "seconds": step / 9}
        lines.append(json.dumps({"step": step, **line, **losses, **position}) + "\n")
    for i in range(600):
        folder = write_run(tmp_path / f"all/{i:03}", 1 + i % 5, config={"seed": i})
        (folder / run_folder.METRICS).write_text("".join(lines))
    result = report("all", "--output=page.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "page.html").stat().st_size < 10e6
    found, _ = runs.read_runs([tmp_path / "all"])
    points = charts.points(found)
    assert len(points) <= charts.MAX_POINTS
    peaks = {point["name"] for point in points if point["step"] == 537 and point["train"] > 7}
    assert len(peaks) == 600
    # A mean over seeds is over all of them, at every step.
    seeds = Counter((point["series"], point["step"]) for point in points)
    assert set(seeds.values()) == {120}


@pytest.mark.long
def test_mistakes_are_one_line_each(ladder, tmp_path):
    write_broken_runs(tmp_path / "broken")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((), "no run to compare: name a folder, python report.py FOLDER ..."),
        (("nowhere",), "nowhere does not exist: expected a run folder"),
        ((ladder / "report.html",), "report.html is a file: expected a run folder"),
        (("empty",), "empty holds no run: expected config.json in it"),
        (("broken",), "no run can be compared: broken/a/config.json can't be read"),
        ((ladder / "ladder", "--outptu=x.html"), "outptu"),
    ):
        assert_refused(report(*arguments, cwd=tmp_path), message)
    assert not (tmp_path / "report.html").exists()
    refused = report(ladder / "ladder/bigram", "--output=empty", cwd=tmp_path)
    assert_refused(refused, "--output=empty can't be written: Is a directory")
    (tmp_path / "taken").write_text("mine")
    refused = report(ladder / "ladder/bigram", "--data=empty", cwd=tmp_path)
    assert_refused(refused, "--data=empty can't be written: Is a directory")
    refused = report(ladder / "ladder/bigram", "--figures=taken", cwd=tmp_path)
    assert_refused(
        refused, "--figures=taken: taken can't be written: File exists; name a writable folder"
    )
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_gain_names_the_compute_where_it_is_not_equal(tmp_path):
    for name, stage, ratio in (("decoder", 4, 1.0), ("same", 5, 1.04), ("more", 5, 5.0)):
        made = write_run(tmp_path / name, stage)
        lines = list(run_folder.read_lines(made / run_folder.METRICS))
        for line in lines:
            line["train_flops"] = 1e12 * ratio * line["step"] / lines[-1]["step"]
        (made / run_folder.METRICS).write_text("".join(json.dumps(x) + "\n" for x in lines))
    found, _ = runs.read_runs([tmp_path])
    texts = {run.name: gain_of(run, found) for run in found}
    assert texts["same"].endswith("%)")
    assert texts["more"] == texts["same"].partition("(")[0] + "(5x FLOPs)"
    lines[-1]["val/loss"] = found[0].last("val/loss") - 0.004
    (tmp_path / "same" / run_folder.METRICS).write_text(
        json.dumps(lines[-1] | {"train_flops": 1e12}) + "\n"
    )
    found, _ = runs.read_runs([tmp_path])
    assert {run.name: gain_of(run, found) for run in found}["same"] == "-0.00 nats (no gain)"


@pytest.mark.long
def test_charts_are_written_as_files(ladder, tmp_path):
    output = tmp_path / "report.html"
    folder, data = tmp_path / "new" / "figures", tmp_path / "data.json"
    made = report(
        "ladder", f"--output={output}", f"--figures={folder}", f"--data={data}", cwd=ladder
    )
    assert f"figures: {folder}, 6 of them" in made.stdout
    drawn = {path.name: ElementTree.parse(path).getroot() for path in folder.iterdir()}
    assert set(drawn) == {
        *(f"val-loss-against-{name}.svg" for name in ("step", "tokens", "seconds", "flops")),
        *("bits-per-byte.svg", "what-each-idea-bought.svg"),
    }
    for picture in drawn.values():
        assert float(picture.get("width")) >= 640 and picture.tag.endswith("}svg")
        assert not [part for part in picture.iter() if part.tag.endswith("}image")]
    bars = list(drawn["bits-per-byte.svg"].itertext())
    curves = list(drawn["val-loss-against-seconds.svg"].itertext())
    for name, *_ in LADDER:
        summary = run_folder.read_json(ladder / "ladder" / name / run_folder.SUMMARY)
        assert name in curves and name in bars
        assert f"{summary['val/bits_per_byte']:.3f}" in bars
    assert "Seconds of training" in curves and "Validation loss, nats per token" in curves


def test_seeds_share_a_color_and_are_compared_by_their_mean(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"bigram-{seed}", 1, config={"seed": seed})
    write_run(tmp_path / "gpt2", 5)
    write_run(tmp_path / "other-text", 5, config={"data.name": "text"})
    found, _ = runs.read_runs([tmp_path])
    made = groups.group_seeds(found)
    assert list(made) == ["bigram (3 seeds)", "gpt2", "other-text"]
    mean = fmean(run.last("val/loss") for run in made["bigram (3 seeds)"])
    gain = made["gpt2"][0].last("val/loss") - mean
    text = gain_of(made["gpt2"][0], found)
    assert text.startswith(f"{gain:+.2f} nats (") and text.endswith("x FLOPs)")
    # Another text: the uniform distribution is the only baseline.
    assert gain_of(made["other-text"][0], found).startswith("-2.5")
    bars = charts.bits_chart(found)
    bits = [run.last("val/bits_per_byte") for run in made["bigram (3 seeds)"]]
    expected = [{"name": "bigram (3 seeds)", "bits": fmean(bits)}]
    assert [expected[0] | {"low": min(bits), "high": max(bits)}] in bars["datasets"].values()
    differ, same = rows.differences(found)
    assert differ["seed"] == ["0", "1", "2", "0", "0"]
    assert same["sample.prompt"] == '"\\n"'
    assert same["device"] == "cpu" and "device" not in differ


def test_numbers_of_settings_are_short_and_exact(tmp_path):
    shown = {3e11: "3e+11", 0.5: "0.5", 1234567.5: "1234567.5", 0.00123: "0.00123", 12: "12"}
    for place, number in enumerate(shown):
        write_run(tmp_path / f"{place}", 5, config={"train.flops": number})
    differ, _ = rows.differences(runs.read_runs([tmp_path])[0])
    assert differ["train.flops"] == [*shown.values()]


@pytest.mark.slow
def test_curves_of_seeds_are_their_mean_in_a_band(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"bigram-{seed}", 1, config={"seed": seed})
    found, _ = runs.read_runs([tmp_path])
    other = runs.read_run(write_run(tmp_path / "gpt2", 5), "gpt2")
    drawn = figures.svg(figures.curve([*found, other], "val", "step"))
    assert len(re.findall('class="mark-area', drawn)) == 1
    assert len(re.findall('aria-roledescription="line mark"', drawn)) == 2
    labels = re.findall(
        'aria-label="Updates: 250; Validation loss[^:]*: ([^;]*); series: bi', drawn
    )
    losses = [line["val/loss"] for run in found for line in run.metrics if line["step"] == 250]
    assert labels and all(float(x) == pytest.approx(fmean(losses), rel=1e-5) for x in labels)


def with_command(run: runs.Run, *words: str) -> runs.Run:
    """Returns the run as if a command with these flags had made it."""
    command = ["main.py", *words, f"--workdir={run.name}", f"--config.seed={run.config['seed']}"]
    return replace(run, environment={"command": command})


def test_seeds_are_named_after_the_flags_that_they_share(tmp_path):
    for rate in (0.1, 0.2):
        for seed in range(2):
            config = {"optimizer.learning_rate": rate, "seed": seed}
            write_run(tmp_path / f"{rate} {seed}", 5, config=config)
    found, _ = runs.read_runs([tmp_path])

    def names(*same: str, rate: str = "--config.optimizer.learning_rate={}") -> list[str]:
        of_rate = [rate.format(run.config["optimizer.learning_rate"]) for run in found]
        of_runs = zip(found, of_rate, strict=True)
        return list(groups.group_seeds([with_command(run, *same, one) for run, one in of_runs]))

    same = ("--config=experiments/gpt2.py:smoke", "--config.tracking.group=x")
    assert names(*same) == ["learning_rate=0.1 (2 seeds)", "learning_rate=0.2 (2 seeds)"]
    # A file of their own, which the flags do not tell apart.
    assert names(*same, rate="") == [
        "gpt2:smoke (2 seeds)",
        "gpt2:smoke (2 seeds, 0.2 0 the first)",
    ]
    assert names(rate="--config=mine/gpt2.py:{}")[0] == "gpt2:0.1 (2 seeds)"
    assert list(groups.group_seeds([found[0], found[0]])) == ["gpt2 (2 runs)"]


@pytest.mark.slow
def test_the_origin_of_the_runs_is_told_once_or_beside_each(ladder):
    found, _ = runs.read_runs([ladder / "ladder"])
    made = {"started": "2026-01-02T03:04:05+00:00", "git_commit": "f" * 40, "git_dirty": True}
    machine = {
        "device": "CPU",
        "num_devices": 1,
        "num_cpus": 2,
        "python": "3.11.7",
        "jax": "0.10.2",
    }
    found = [replace(run, environment=made | machine) for run in found]
    shared = {
        "date": "2026-01-02",
        "commit": f"{'f' * 10} with uncommitted changes",
        "device": "CPU",
        "processor cores": "2",
        "versions": "python 3.11.7, jax 0.10.2",
    }
    assert page.origin(found) == shared
    other = {"started": "2026-01-09", "git_dirty": False, "num_devices": 8}
    found[0] = replace(found[0], environment=found[0].environment | other)
    assert page.origin(found) == shared | {
        "date": "2026-01-02 to 2026-01-09",
        "commit": "2 different ones, under settings that differ",
        "devices": "2 different ones, under settings that differ",
    }
    differ, _ = rows.differences(found)
    assert differ["commit"][:2] == ["f" * 10, shared["commit"]]
    assert differ["devices"][:2] == ["8", rows.MISSING]
    assert "<dt>commit</dt><dd>0123456789</dd>" in (ladder / "report.html").read_text()


def test_the_staircase_leads_from_a_uniform_guess_to_the_last_stage(tmp_path):
    write_ladder(tmp_path)
    found, _ = runs.read_runs([tmp_path])
    (steps,) = staircase.ladder(found)["datasets"].values()
    assert steps[0]["from"] == pytest.approx(LN_65)
    assert all(one["to"] == other["from"] for one, other in pairwise(steps))
    assert [step["to"] for step in steps] == [run.last("val/loss") for run in found]
    assert [step["name"] for step in steps] == [
        f"{run.name}\n{gain_of(run, found)}" for run in found
    ]
    seed = runs.read_run(write_run(tmp_path / "seed", 5, config={"seed": 1}), "seed")
    (steps,) = staircase.ladder([*found, seed])["datasets"].values()
    assert steps[-1]["to"] == pytest.approx(
        (found[-1].last("val/loss") + seed.last("val/loss")) / 2
    )
    assert steps[-1]["name"].startswith("gpt2, 2 seeds\n-0.1")
    # Of two settings neither is the stage, and a sweep has charts of its own.
    other = write_run(tmp_path / "other", 5, config={"model.embed_dim": 8})
    assert staircase.ladder([*found, runs.read_run(other, "other")]) is None
    assert staircase.ladder([replace(run, sweep_id="s") for run in found]) is None
    assert staircase.ladder(found[:1]) is None


@pytest.mark.slow
def test_curves_are_logarithmic_where_runs_end_orders_of_magnitude_apart(ladder):
    found, _ = runs.read_runs([ladder / "ladder"])
    assert charts.log_by_default(found) == {
        "step": False,
        "tokens": False,
        "seconds": True,
        "flops": True,
    }
    # A run that diverges must not squeeze all others into a line.
    points = charts.points(found)
    points.append({**points[-1], "val": 1e6})
    assert charts.loss_range(points, "val", 65)[1] < 5


@pytest.mark.slow
def test_labels_keep_the_order_of_the_ends_and_do_not_overlap(ladder):
    found, _ = runs.read_runs([ladder / "ladder"])
    rows, domain = charts.points(found), [1.0, 3.0]
    # Three that end together, one that ends far from them, one between them.
    ends = dict(zip([run.name for run in found], [2.5, 1.5, 1.501, 1.502, 1.55], strict=True))
    rows = [{**row, "val": ends[row["series"]]} for row in rows]
    places = charts.label_places(rows, "val", domain)
    assert sorted(places, key=places.get) == sorted(ends, key=ends.get)
    gap = charts.LABEL_HEIGHT / charts.HEIGHT * (domain[1] - domain[0])
    assert all(b - a > 0.999 * gap for a, b in pairwise(sorted(places.values())))
    assert places[found[0].name] == 2.5 and places[found[1].name] == 1.5


def linear(color):
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def test_colors_stand_out_on_both_backgrounds():
    """By WCAG's contrast for graphics."""
    for color in charts.COLORS:
        light, own, dark = (
            linear(one) @ (0.2126, 0.7152, 0.0722) + 0.05 for one in ("#ffffff", color, "#171a21")
        )
        assert light / own >= 3 and own / dark >= 3, color


# How colors look with deuteranopia and protanopia (Machado et al., 2009), in linear RGB.
SIGHT = {
    "deuteranopia": [(0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)],
    "protanopia": [(0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)],
    "full": np.eye(3),
}
XYZ = [(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)]


def lab(color, sight):
    """CIELAB of a color as it is seen."""
    seen = np.clip(np.array(SIGHT[sight]) @ linear(color), 0, 1)
    ratio = np.array(XYZ) @ seen / (0.95047, 1, 1.08883)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    ("sight", "least"), [("deuteranopia", 25), ("protanopia", 25), ("full", 42)]
)
def test_the_stages_colors_differ_for_the_color_blind(sight, least):
    places = [lab(color, sight) for color in charts.COLORS[:6]]
    assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) >= least


HOSTILE = {
    "tracking.notes": "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m [b]loud[/b]",
    "sample.prompt": "</script><script>alert('config')</script>\u2028",
}
HOSTILE_NAME = '"><img src onerror=alert()>\x1b[red]{{7*7}}'
HOSTILE_TEXT = "</script><script>alert('text')</script><!-- ☃ \u2028 \x00 \x1b[2J"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Returns a folder with report.html and report.txt of a run with hostile texts and name."""
    folder = tmp_path_factory.mktemp("hostile")
    write_run(folder / HOSTILE_NAME, 1, config=HOSTILE, prompt=HOSTILE_TEXT, text=HOSTILE_TEXT)
    # JSON can hold half of a surrogate pair, UTF-8 can't.
    samples = folder / HOSTILE_NAME / run_folder.SAMPLES
    samples.write_text(samples.read_text().replace("☃", "\\ud800"))
    write_run(folder / "good", 2)
    done = report(".", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "report.txt").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_hostile_text_is_only_text(hostile):
    table = (hostile / "report.txt").read_text()
    assert "\x1b" not in table and "\x07" not in table
    assert '"><img src onerror=alert()>�[red]{{7*7}}' in table
    assert "[b]loud[/b]" in table
    page = (hostile / "report.html").read_text()
    assert re.findall("<script[^>]*>", page) == [
        '<script type="application/json" id="data">',
        *4 * ["<script>"],
    ]
    assert page.lower().count("</script") == 5
    assert "<img" not in page.split("<script")[0]
    data = page.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["samples"][0][-1]["text"] == (
        f"{HOSTILE_TEXT}\n".replace("☃", "\ud800") * 4
    )


def test_without_a_browser_the_page_is_tested_in_ci_alone(monkeypatch):
    monkeypatch.setattr(browser, "PROGRAMS", ())
    monkeypatch.delenv("CI", raising=False)
    with pytest.warns(match="no Chrome or Chromium is installed"):
        assert not browser.is_wanted()
    monkeypatch.setenv("CI", "true")
    assert browser.is_wanted()
    with pytest.raises(RuntimeError, match="no browser is installed"), browser.launch():
        pass


@pytest.mark.slow
class TestPage:
    """The page in a browser with no network; `browser.open_file` fails on errors it reports."""

    __test__ = browser.is_wanted()

    @pytest.fixture(scope="class")
    def chromium(self):
        with browser.launch() as chromium:
            yield chromium

    @pytest.mark.long
    def test_switches_change_what_the_curves_show(self, chromium, ladder):
        with browser.open_file(chromium, ladder / "report.html") as page:
            axes = page.locator("#curves [aria-roledescription=axis]")
            assert_axis(axes, "'Floating-point operations of training' for a log scale")
            assert_axis(axes, "Y-axis titled 'Validation loss, nats per token'")
            assert page.locator("#curves .mark-line path[aria-roledescription]").count() == 5
            for label, title in (
                ("step", "X-axis titled 'Updates' for a linear scale"),
                ("tokens", "'Tokens seen' for a linear scale"),
                ("seconds", "'Seconds of training' for a log scale"),
                ("FLOPs", "'Floating-point operations of training' for a log scale"),
            ):
                page.get_by_label(label, exact=True).check()
                assert_axis(axes, title)
            page.get_by_label("logarithmic").uncheck()
            assert_axis(axes, "'Floating-point operations of training' for a linear scale")
            page.get_by_label("training", exact=True).check()
            assert_axis(axes, "Y-axis titled 'Training loss, nats per token'")

    def test_switches_work_by_keyboard(self, chromium, ladder):
        with browser.open_file(chromium, ladder / "report.html") as page:
            axes = page.locator("#curves [aria-roledescription=axis]")
            page.get_by_label("validation", exact=True).focus()
            page.keyboard.press("Tab")
            for _ in range(2):  # From the last round to the first.
                page.keyboard.press("ArrowRight")
            assert_axis(axes, "X-axis titled 'Tokens seen'")
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
            assert_axis(axes, "X-axis titled 'Tokens seen' for a log scale")

    def test_runs_can_be_hidden_and_pointed_at(self, chromium, ladder):
        with browser.open_file(chromium, ladder / "report.html") as page:
            for name, *_ in LADDER[:4]:
                page.get_by_label(name, exact=True).uncheck()
            lines = page.locator("#curves .mark-line path[aria-roledescription]")
            page.wait_for_function(f"{COUNT_LINES} === 1")
            assert lines.count() == 1
            box = page.locator("#curves svg").bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            tooltip = page.locator("#vg-tooltip-element")
            tooltip.wait_for()
            text = " ".join(tooltip.inner_text().split())
            assert text.startswith("run gpt2 updates ")
            assert "undefined" not in text and "NaN" not in text

    def test_the_slider_goes_back_to_earlier_samples(self, chromium, ladder):
        with browser.open_file(chromium, ladder / "report.html") as page:
            card = page.locator(".samples article").last
            assert card.locator(".when").inner_text() == 'after 2,200 updates, prompt "\\n"'
            assert card.locator("pre").inner_text().startswith(TEXTS[3])
            slider = page.get_by_role("slider")
            slider.press("Home")
            assert card.locator(".when").inner_text() == 'after 0 updates, prompt "\\n"'
            assert card.locator("pre").inner_text().startswith(TEXTS[0])
            assert slider.get_attribute("aria-valuetext") == "0 updates"

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [390, 1400])
    def test_it_fits_the_screen(self, chromium, ladder, width, scheme):
        screen = {"viewport": {"width": width, "height": 850}, "color_scheme": scheme}
        with browser.open_file(chromium, ladder / "report.html", **screen) as page:
            page.locator("#bits svg").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") == width
            table = page.locator(".scroll").first
            assert table.evaluate("it => it.scrollWidth - it.clientWidth") == 0
            brightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, re.findall(r"\d+", brightness))) < 60) == (scheme == "dark")

    def test_charts_and_numbers_are_saved_as_files(self, chromium, ladder):
        screen = {"color_scheme": "dark"}  # A saved chart is black on white all the same.
        with browser.open_file(chromium, ladder / "report.html", **screen) as page:

            def saved(name: str, file: str) -> bytes:
                with page.expect_download() as waiting:
                    page.get_by_role("button", name=name, exact=True).click()
                assert waiting.value.suggested_filename == file
                return waiting.value.path().read_bytes()

            page.get_by_label("bigram", exact=True).uncheck()
            page.wait_for_function(f"{COUNT_LINES} === 4")
            drawn = saved("SVG of Loss during training", "loss-during-training.svg")
            picture = ElementTree.fromstring(drawn)
            texts = list(picture.itertext())
            assert "gpt2" in texts and "bigram" not in texts
            assert any(part.get("fill") == "white" for part in picture.iter())
            pixels = saved("PNG of What each idea bought", "what-each-idea-bought.png")
            assert pixels.startswith(b"\x89PNG")
            width = page.locator("#staircase svg").bounding_box()["width"]
            assert int.from_bytes(pixels[16:20]) == pytest.approx(2 * width, abs=4)
            table = csv.DictReader(io.StringIO(saved("Table as CSV", "runs.csv").decode()))
            points = csv.DictReader(io.StringIO(saved("Curves as CSV", "curves.csv").decode()))
        found, _ = runs.read_runs([ladder / "ladder"])
        assert {row["run"]: float(row["val/loss"]) for row in table} == {
            run.name: run.last("val/loss") for run in found
        }
        losses = [
            (run.name, line["step"], line.get("val/loss")) for run in found for line in run.metrics
        ]
        for row, (name, step, loss) in zip(points, losses, strict=True):
            assert (row["run"], int(row["step"])) == (name, step)
            assert float(row["val/loss"] or "nan") == pytest.approx(
                loss or math.nan, rel=1e-5, nan_ok=True
            )

    def test_a_csv_quotes_and_holds_no_formula(self, chromium, ladder):
        with browser.open_file(chromium, ladder / "report.html") as page:
            rows = [{"a": 'x, "y"\n', "b": -1.5}, {"a": "=cmd()", "c": None}]
            made = page.evaluate("rows => toCsv(rows, {a: 'long'})", rows)
        assert list(csv.reader(io.StringIO(made))) == [
            ["long", "b", "c"],
            ['x, "y"\n', "-1.5", ""],
            ["'=cmd()", "", ""],
        ]

    def test_hostile_text_does_nothing(self, chromium, hostile):
        with browser.open_file(chromium, hostile / "report.html") as page:
            page.locator("#bits svg").wait_for()
            name = runs.sanitize(HOSTILE_NAME)
            assert page.get_by_role("heading", name=name, exact=True).count() == 1
            page.get_by_role("slider").press("Home")
            text = page.locator(".samples pre").first.inner_text()
            assert text.startswith("</script><script>alert('text')</script>")
            page.get_by_label(name, exact=True).uncheck()
            page.wait_for_function(f"{COUNT_LINES} === 1")
            assert page.locator("img").count() == 0


COUNT_LINES = "document.querySelectorAll('#curves .mark-line path[aria-roledescription]').length"


def assert_axis(axes, label: str) -> None:
    """Waits until one of a chart's axes has this description."""
    axes.page.wait_for_function(
        "label => [...document.querySelectorAll('#curves [aria-roledescription=axis]')]"
        ".some(axis => axis.getAttribute('aria-label').includes(label))",
        arg=label,
    )
