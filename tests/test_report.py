"""report.py as a user runs it: the table, the page in a browser, and errors."""

import fcntl
import html
import json
import math
import os
import pty
import random
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import pytest

import run_folder
from experiments import default
from reporting import charts, rows, runs
from tests import browser
from tests.command import assert_refused

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
    command = [sys.executable, str(ROOT / "report.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


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
        (folder / "ladder" / name / f"wandb/offline-run-20260101_000000-{name}").mkdir(parents=True)
    done = report("ladder", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "report.txt").write_text(done.stdout)
    return folder


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
    names = {f"offline-run-20260101_000000-{name}" for name in ("bigram", "gpt2")}
    leet = re.search("show them in the terminal: (.*)", table)[1]
    # This shell finds the program, in an activated environment or not.
    program = re.search(r"(\S*wandb) leet", leet)[1]
    assert shutil.which(program, path=os.environ["PATH"]) or (ladder / program).is_file()
    listed = shell(leet.replace(f"{program} leet", "ls"), ladder)
    assert set(listed.split()) == names
    sync = re.search("upload them: (.*)", table)[1]
    listed = shell(sync.replace(f"{program} sync", "ls -d"), ladder)
    assert {Path(path).name for path in listed.split()} == names

    alone = report("ladder/gpt2/", "--output=alone.html", cwd=ladder).stdout
    assert "wandb leet ladder/gpt2/wandb\n" in alone
    assert "wandb sync ladder/gpt2/wandb/offline-run-*\n" in alone


def shell(command: str, cwd: Path) -> str:
    """Returns the output of a shell command."""
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
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


@pytest.mark.slow
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
    texts = {run.name: rows.gain_text(run, found) for run in found}
    assert texts["same"].endswith("%)")
    assert texts["more"] == texts["same"].partition("(")[0] + "(5x FLOPs)"
    lines[-1]["val/loss"] = found[0].last("val/loss") - 0.004
    (tmp_path / "same" / run_folder.METRICS).write_text(
        json.dumps(lines[-1] | {"train_flops": 1e12}) + "\n"
    )
    found, _ = runs.read_runs([tmp_path])
    assert {run.name: rows.gain_text(run, found) for run in found}["same"] == "-0.00 nats (no gain)"


@pytest.mark.slow
def test_charts_are_written_as_files(ladder, tmp_path):
    output = tmp_path / "report.html"
    figures, data = tmp_path / "new" / "figures", tmp_path / "data.json"
    made = report(
        "ladder", f"--output={output}", f"--figures={figures}", f"--data={data}", cwd=ladder
    )
    assert f"figures: {figures}, 5 of them" in made.stdout
    drawn = {path.name: ElementTree.parse(path).getroot() for path in figures.iterdir()}
    assert set(drawn) == {
        *(f"val-loss-against-{name}.svg" for name in ("step", "tokens", "seconds", "flops")),
        "bits-per-byte.svg",
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
    groups = rows.group_seeds(found)
    assert list(groups) == ["bigram-0 (3 seeds)", "gpt2", "other-text"]
    mean = fmean(run.last("val/loss") for run in groups["bigram-0 (3 seeds)"])
    gain = groups["gpt2"][0].last("val/loss") - mean
    text = rows.gain_text(groups["gpt2"][0], found)
    assert text.startswith(f"{gain:+.2f} nats (") and text.endswith("x FLOPs)")
    # Another text: the uniform distribution is the only baseline.
    assert rows.gain_text(groups["other-text"][0], found).startswith("-2.5")
    differ, same = rows.differences(found)
    assert differ["seed"] == ["0", "1", "2", "0", "0"]
    assert same["sample.prompt"] == '"\\n"'
    assert same["device"] == "cpu" and "device" not in differ


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


def test_hostile_text_is_only_text(hostile):
    table = (hostile / "report.txt").read_text()
    assert "\x1b" not in table and "\x07" not in table
    assert '"><img src onerror=alert()>�[red]{{7*7}}' in table
    assert "[b]loud[/b]" in table
    page = (hostile / "report.html").read_text()
    assert re.findall("<script[^>]*>", page) == [
        '<script type="application/json" id="data">',
        "<script>",
        "<script>",
    ]
    assert page.lower().count("</script") == 3
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


class TestPage:
    """The page in a browser with no network; `browser.open_file` fails on errors it reports."""

    __test__ = browser.is_wanted()

    @pytest.fixture(scope="class")
    def chromium(self):
        with browser.launch() as chromium:
            yield chromium

    @pytest.mark.slow
    def test_switches_change_what_the_curves_show(self, chromium, ladder):
        with browser.open_file(chromium, ladder / "report.html") as page:
            axes = page.locator("#curves [aria-roledescription=axis]")
            assert_axis(axes, "X-axis titled 'Updates' for a linear scale")
            assert_axis(axes, "Y-axis titled 'Validation loss, nats per token'")
            assert page.locator("#curves .mark-line path[aria-roledescription]").count() == 5
            for label, title in (
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
            for _ in range(2):  # The loss, then what it is drawn against.
                page.keyboard.press("Tab")
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
        timeout=5000,
    )
