"""The notebooks of the course, executed as Jupyter does: from their folder, a kernel each."""

import ast
import functools
import os
import re
import subprocess

import jupytext
import nbclient
import pytest

import harness
import run_folder
from experiments import default
from tests.command import OF_A_COMMAND, ROOT

PATHS = sorted((ROOT / "notebooks").glob("*.py"))
# Folders of the runs that each notebook trains, in the form of tests.
TRAINED = {
    "1_bigram": {"bigram"},
    "2_self_attention": {"bigram", "self_attention"},
    "3_multi_head_attention": {
        "self_attention",
        "multi_head_attention",
        *(f"heads/{num}_heads" for num in (1, 2, 4)),
    },
    "4_transformer_decoder": {
        "multi_head_attention",
        "transformer_decoder",
        *(f"taken_away/{name}" for name in ("one_block", "without_layer_norm")),
    },
    "5_gpt2": {"transformer_decoder", "gpt2", "change/none", "change/dropout"},
}
by_stage = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def prose(notebook):
    """Returns the text of the notebook's markdown cells."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def execute(path, checkout):
    """Returns the notebook of a file, executed in a checkout's folder of notebooks."""
    notebook = jupytext.read(path)
    where = {"metadata": {"path": str(checkout / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=OF_A_COMMAND, resources=where).execute()
    return notebook


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout whose runs are its own. Its files are links to those here."""
    folder = tmp_path_factory.mktemp("course") / "checkout"
    for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if not path.startswith(("tests/", "benchmarks/", "docs/")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(ROOT / path)
    (folder / "notebooks").mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def executed(checkout):
    """A function that returns the notebook of a file, executed once in the form of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PRESET", "smoke")
        yield functools.cache(functools.partial(execute, checkout=checkout))


def test_each_stage_has_a_notebook():
    names = [f"{place}_{stage}" for place, stage in enumerate(default.LADDER, start=1)]
    assert [path.stem for path in PATHS] == names == list(TRAINED)


@by_stage
def test_it_begins_with_a_question_and_ends_with_where_to_go(path):
    cells = jupytext.read(path).cells
    stage = path.stem[0]
    assert re.match(rf"# Stage {stage}: .*\n\n\*\*[A-Z][^*]*\?\*\* [A-Z]", cells[0].source)
    last = cells[-1].source
    assert last.count("?") >= 3 and "## Questions" in last
    assert f"docs/stages/{stage}.md" in last and f"python -m exercises.check {stage}`" in last
    following = [other.name for other in PATHS if other > path][:1]
    assert all(f"`{name}`" in last for name in following)


@by_stage
def test_prose_has_no_measured_number(path):
    assert not re.search(r"\d[.,]\d", re.sub("`[^`]*`", "", prose(jupytext.read(path))))


@by_stage
def test_the_files_that_its_prose_names_are_notebooks_or_in_the_checkout(path):
    names = re.findall(r"`((?:[\w]+/)*\w+\.(?:py|md))`", prose(jupytext.read(path)))
    assert names
    for name in set(names) - {f"docs/stages/{path.stem[0]}.md"}:
        assert (ROOT / name).exists() or path.with_name(name).exists(), name


@by_stage
def test_jupytext_writes_the_file_that_it_read(path):
    """So that a notebook which is saved as a script changes nothing but what was changed."""
    notebook = jupytext.reads(path.read_text(), fmt="py:percent")
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert jupytext.writes(notebook, fmt="py:percent") == path.read_text()


@pytest.mark.long
@by_stage
def test_every_cell_runs(path, executed, checkout):
    """Without a line of error, and with a chart; and the runs are where the text says."""
    shown = outputs(executed(path))
    assert all(output.output_type != "error" for output in shown)
    texts = "".join(output.get("text", "") for output in shown)
    assert "Traceback" not in texts and "Warning" not in texts
    charts = [output.get("data", {}).get("image/svg+xml", "") for output in shown]
    assert sum("<svg" in chart for chart in charts) >= (1 if path == PATHS[0] else 2)
    code = [cell for cell in executed(path).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    for name in TRAINED[path.stem]:
        folder = checkout / "runs/notebooks/smoke" / name
        assert run_folder.read_object(folder / "summary.json")["status"] == "done"


@pytest.mark.long
def test_the_runs_are_those_that_are_named_here(executed, checkout):
    for path in PATHS:
        executed(path)
    runs = checkout / "runs/notebooks/smoke"
    made = {str(path.parent.relative_to(runs)) for path in runs.rglob("summary.json")}
    assert made == set.union(*TRAINED.values())


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS[1:], ids=lambda path: path.stem)
def test_a_cell_that_has_run_in_another_kernel_finds_the_finished_run(path, executed):
    """The run of the stage before, which its own notebook trained, is not trained again."""
    executed(PATHS[PATHS.index(path) - 1])
    texts = "".join(output.get("text", "") for output in outputs(executed(path)))
    before = default.LADDER[PATHS.index(path) - 1]
    assert f"smoke/{before}: finished at step 20 already" in texts


@pytest.mark.long
def test_stage_1_shows_what_it_counted(executed, checkout):
    """The counts of the notebook, made again from the text of the run."""
    texts = "".join(output.get("text", "") for output in outputs(executed(PATHS[0])))
    made = harness.open_run(checkout / "runs/notebooks/smoke/bigram", "latest")
    text = made.tokenizer.decode(made.splits()["train"])
    after = re.findall("(?s)q(?=(.))", text)
    rows = re.findall(r"^ *('.'|'\\n') +(\d\.\d+) +(\d\.\d+)$", texts, re.MULTILINE)
    assert len(rows) == 5
    for name, learned, counted in rows:
        assert 0 < float(learned) < 1
        assert float(counted) == pytest.approx(
            after.count(ast.literal_eval(name)) / len(after), abs=6e-4
        )


@pytest.mark.slow
def test_make_notebooks_makes_those_that_are_not_there(tmp_path):
    """A reader's changes stay. Jupyter's place is taken by a command that ends."""
    for name in ("Makefile", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "notebooks").mkdir()
    for path in PATHS[:2]:
        (tmp_path / "notebooks" / path.name).write_text(path.read_text())
    mine = tmp_path / "notebooks/2_self_attention.ipynb"
    mine.write_text("mine")
    stamps = [f"-o.venv/{name}.stamp" for name in ("setup", "notebooks")]
    make = ["make", *stamps, "notebooks", "JUPYTER=--version"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert mine.read_text() == "mine"
    made = jupytext.read(tmp_path / "notebooks/1_bigram.ipynb")
    cells = [(cell.cell_type, cell.source) for cell in made.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in jupytext.read(PATHS[0]).cells]
