"""The documentation site: numbers of its pages, its build, and its pages in a browser."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from scipy.stats import dunnett
from sphinx.cmd.build import build_main

from course import measured, prose, site
from course.measured import MeasuredError
from tests import browser
from tests.command import OF_A_COMMAND, ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("[!_]*.md"))
# With the playground of the ladder, 1.3 MB, at most 6 MB.
MEGABYTES = 4.7
FLAGS = ["-W", "-q", "--fresh-env"]
# Sphinx, about myst-parser.
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


class TestNumbers:
    """Measured numbers against those of the files, and of the report."""

    def test_a_mean_is_that_of_the_file(self):
        runs = json.loads((DOCS / "measured/heads.json").read_text())["runs"]
        of = [x for x in runs if x["model.name"] == "gpt2" or "decoder" in x["model.name"]]
        losses = [run["val/loss"] for run in of if run["model.num_heads"] == 4]
        assert len(losses) == 3
        call = measured.functions(ROOT)
        where = {"run": "transformer_decoder,num_heads=4"}
        assert call["mean"]("heads", **where) == pytest.approx(fmean(losses))
        assert call["mean"]("heads", model="transformer_decoder", num_heads=4) == fmean(losses)
        assert call["spread"]("heads", **where) == pytest.approx(max(losses) - min(losses))
        assert call["seeds"]("heads", **where) == 3
        assert call["loss"]("heads", digits=2, **where) == f"{fmean(losses):.2f}"
        # A setting that all runs share.
        assert call["seeds"]("heads", **where, embed_dim=128) == 3

    def test_a_difference_is_that_of_the_report(self):
        """The report compares the best setting of each of two models."""
        call = measured.functions(ROOT)
        names = {}
        for model in ("multi_head_attention", "transformer_decoder"):
            runs = [f"{model},num_heads={count}" for count in (1, 2, 4, 8, 16)]
            names[model] = min(runs, key=lambda run: call["mean"]("heads", run=run))
        sentence = call["finding"]("heads", *names)
        found = call["difference"]("heads", *names.values())
        numbers = re.findall(r"\d+\.\d+", sentence)
        told = measured.told(found)
        assert re.findall(r"\d+\.\d+", told) == numbers and len(numbers) == 3
        assert f"{numbers[0]} below (95 % interval {numbers[1]} to {numbers[2]}; stat" in told
        assert found.significant and "not stat" not in sentence
        assert found.test in sentence and found.test in told
        back = call["difference"]("heads", *reversed(names.values()))
        assert measured.told(back) == told.replace("below", "above")

    def test_several_are_compared_with_one(self, tmp_path):
        groups = {"a": [1.0, 1.1, 1.2], "b": [1.3, 1.35, 1.45], "c": [2.0, 2.1, 2.15]}
        runs = [
            {"name": f"001-{name},seed={seed}", "seed": seed, "val/loss": loss}
            for name, losses in groups.items()
            for seed, loss in enumerate(losses)
        ]
        (tmp_path / "docs/measured").mkdir(parents=True)
        content = {"shared": {}, "runs": runs}
        (tmp_path / "docs/measured/x.json").write_text(json.dumps(content))
        found = measured.functions(tmp_path)["difference"]("x", "b", "a", among="*")
        test = dunnett(groups["b"], groups["c"], control=groups["a"], rng=0)
        assert found.significant == (test.pvalue[0] < 0.05)
        assert found.low == pytest.approx(test.confidence_interval().low[0])
        assert (found.test, found.mean) == ("Dunnett's test", pytest.approx(0.8 / 3))

    def test_a_table_has_a_row_for_each_group(self):
        call = measured.functions(ROOT)
        columns = {"run": "run", "heads": "num_heads", "loss": "val/loss", "FLOPs": "train_flops"}
        head, line, *rows = call["table"]("heads", columns, model="transformer_decoder").split("\n")
        assert head == "| run | heads | loss | FLOPs |"
        assert line == "| --- | --- | --- | --- |"
        assert len(rows) == 5
        loss = call["loss"]("heads", run="transformer_decoder,num_heads=4")
        assert any(row.endswith(f"num_heads=4 | 4 | {loss} | 3e12 |") for row in rows)

    def test_formats(self):
        assert measured.number(1.66666) == "1.667"
        assert measured.signed(-0.06, 1) == "-0.1"
        assert measured.signed(0.25, 2) == "+0.25"
        assert measured.count(12288000.0) == "12,288,000"
        assert (measured.compute(3e12), measured.compute(5.93e9)) == ("3e12", "5.9e9")
        assert measured.shown(2.0) == "2.000"
        assert measured.shown(2) == 2
        assert (
            measured.functions(ROOT)["machines"]("depth") == "Intel(R) Xeon(R) Processor, 2 cores"
        )

    @pytest.mark.parametrize(
        ("expression", "message"),
        [
            (
                'loss("head")',
                "docs/measured/head.json does not exist: expected one of architecture, ",
            ),
            ('value("benchmarks/no")', "benchmarks/no.json does not exist: expected one of check"),
            ('loss("broken")', "docs/measured/broken.json is no JSON: Expecting value"),
            ('loss("tune_stages")', "docs/measured/tune_stages.json has no runs: expected a file"),
            (
                'loss("heads", hats=4)',
                "docs/measured/heads.json has no key 'hats': expected one of ",
            ),
            (
                'mean("heads", "loss2", run="t*=4")',
                "heads.json has no key 'loss2': expected one of",
            ),
            (
                'loss("heads", num_heads=5)',
                "heads.json has no run with num_heads=5: its runs are mu",
            ),
            (
                'loss("heads", num_heads=4)',
                "heads.json: the filter leaves 2 groups of runs, expecte",
            ),
            (
                'mean("heads", "model", run="t*=4")',
                "heads.json: model.name of transformer_decoder,n",
            ),
            ('value("heads", "runs", 99)', "docs/measured/heads.json['runs'] has no key 99"),
            (
                'value("heads", "run")',
                "heads.json has no key 'run': expected one of machines, share",
            ),
            (
                'finding("heads", "no")',
                "docs/measured/heads.json has 0 findings with ('no',): expec",
            ),
            (
                'difference("one", "a", "b")',
                "one.json: 'a' or 'b' has one seed: no difference is te",
            ),
            ('loss("twice", run="a")', "twice.json: several runs 'a' have one seed: add a filter"),
            (
                'table("heads", {"x": "seed"})',
                "heads.json: seed differs between the seeds of multi",
            ),
            ('loss("heads", length=1)', "docs/measured/heads.json has several keys 'length': "),
        ],
    )
    def test_what_is_not_there_is_named(self, tmp_path, expression, message):
        shutil.copytree(DOCS / "measured", tmp_path / "docs/measured")
        shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
        (tmp_path / "docs/measured/broken.json").write_text("x")
        runs = [
            {"name": f"00{i}-{x},seed=0", "seed": 0, "val/loss": 1.5} for i, x in enumerate("aab")
        ]
        for name, some in (("twice", runs), ("one", runs[1:])):
            content = {"shared": {}, "runs": some}
            (tmp_path / f"docs/measured/{name}.json").write_text(json.dumps(content))
        heads = tmp_path / "docs/measured/heads.json"
        heads.write_text(
            heads.read_text().replace('"shared": {', '"shared": {"a.length": 1, "b.length": 1,')
        )
        with pytest.raises(MeasuredError) as caught:
            eval(expression, measured.functions(tmp_path))
        assert message in str(caught.value) and "\n" not in str(caught.value)


TYPED = {
    "a loss of 1.65": ["1.65"],
    "-0.17 nats, +1,234.5": ["-0.17", "+1,234.5"],
    "| 1.5 | a |": ["1.5"],
    "```{note}\nof 1.5\n```": ["1.5"],
    "# Heading 2.5": ["2.5"],
    "of $5 and 1.5 at $6": ["1.5"],
    "`a` 1.5 `b`": ["1.5"],
    "([a 1.5](b.md))": ["1.5"],
    "```\n1.5\n```\n1.25\n```\n1.75\n```": ["1.25"],
    "Python 3.11 to 3.13, JAX 0.10.2, exercise 2.1 and 2.2": [],
    "sections 3, 3.1\nand 3.2.1 of section\n  3.3. A loss of 1.5": ["1.5"],
    "`0.01` ``0.`2``": [],
    "```python\nx = 0.5\n```": [],
    "~~~~\n0.5\n~~~\n0.6\n~~~~": [],
    "> ```\n> 0.5\n> ```": [],
    "```{code-block} python\n0.5\n```": [],
    "$\\ln 65 = 4.17$": [],
    "$$\na = 0.5\n$$": [],
    '`= loss("a", digits=2.5)`': [],
    "[a](b/1.5.md) <https://c/1.5> <!-- 1.5 -->": [],
    "v0.5.1 a1.5": [],
    "10,000 runs, 3e12": [],
}


class TestProse:
    """Numbers that somebody typed."""

    @pytest.mark.parametrize("text", TYPED)
    def test_a_typed_number_is_found(self, text):
        assert [number for _, number in prose.typed_numbers(text)] == TYPED[text]

    def test_its_line_is_named(self):
        page = "```\n1.5\n\n```\n$$\n2.5\n$$\n<!--\n\n-->\n3.5"
        assert prose.typed_numbers(page) == [(11, "3.5")]

    def test_the_course_has_none(self):
        pages = [path for pattern in site.PAGES for path in DOCS.glob(f"{pattern}.md")]
        assert len(pages) >= 7
        assert [(x, prose.typed_numbers(x.read_text())) for x in pages] == [(x, []) for x in pages]


GOOD = """# Page

## A part

[a](index.md), [here](#a-part), [code](../code/model.py), [all](../code), [data](measured/a.json)

Loss `= loss("a", run="b")`, code `{{ x }}` and `[[ x ]]`, braces $\\frac{{a}}{b}$.

$$
a < b
$$ (first)

```python
x[[0]] = {{1}}  # `= loss(1)`
```

```{literalinclude} ../code/model.py
:pyobject: Model.call
```

<!--% if playground %-->
There are models: `= playground`.
<!--% else %-->
There are none.
<!--% endif %-->
"""


def write_tree(folder: Path, page: str) -> None:
    """Writes a repository with two pages, one of them of the course."""
    (folder / "docs/how_to").mkdir(parents=True)
    (folder / "docs/measured").mkdir()
    (folder / "code").mkdir()
    shutil.copy(DOCS / "conf.py", folder / "docs/conf.py")
    (folder / "docs/index.md").write_text('# Start\n\n```{toctree}\n`= pages("p*")`\n```\n')
    (folder / "docs/page.md").write_text(page)
    (folder / "code/model.py").write_text('class Model:\n    def call(x):\n        return "<b>"\n')
    runs = [{"name": f"001-b,seed={i}", "seed": i, "val/loss": 1.5 + i} for i in range(2)]
    content = {"shared": {}, "runs": runs, "findings": [], "machines": []}
    (folder / "docs/measured/a.json").write_text(json.dumps(content))


def build(folder: Path, *options: str) -> int:
    """Builds the site of a tree; returns the exit code."""
    paths = [str(folder / name) for name in ("docs", "site")]
    return build_main([*FLAGS, "-d", str(folder / "doctrees"), *options, *paths])


class TestBuild:
    """Sites of two pages."""

    @pytest.mark.slow
    def test_a_page_is_filled_in(self, tmp_path, capfd):
        write_tree(tmp_path, GOOD)
        assert build(tmp_path) == 0, capfd.readouterr().err
        page = (tmp_path / "site/page.html").read_text()
        assert "Loss 2.000, code" in page
        assert "There are none." in page and "There are models" not in page
        for code in ("{{ x }}", "[[ x ]]"):
            assert code in re.sub("<[^>]*>", "", page)
        assert "`= loss(1)`" in re.sub("<[^>]*>", "", page)
        assert page.count("<math") == 2 and "(1)" in page
        assert 'href="source/code/model.py.html"' in page
        assert 'href="source/code/index.html"' in page
        text = (tmp_path / "site/source/code/model.py.html").read_text()
        assert "&lt;b&gt;" in text and "<h1 class" in text
        assert 'href="model.py.html"' in (tmp_path / "site/source/code/index.html").read_text()

    def test_the_playground_of_the_runs_joins(self, tmp_path):
        write_tree(tmp_path, GOOD)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/playground.html").write_text("play")
        assert build(tmp_path, "-D", "course_runs=mine") == 0
        assert (
            "There are models: ladder/playground.html." in (tmp_path / "site/page.html").read_text()
        )
        assert (tmp_path / "site/ladder/playground.html").read_text() == "play"

    @pytest.mark.parametrize(
        ("good", "bad", "message"),
        [
            (
                "(index.md)",
                "(indes.md)",
                "page.md:5: WARNING: 'myst' cross-reference target not fou",
            ),
            (
                "(#a-part)",
                "(#a-par)",
                "page.md:5: WARNING: 'myst' cross-reference target not found",
            ),
            (
                "../code)",
                "../cod)",
                "page.md:5: WARNING: 'myst' cross-reference target not found: '../",
            ),
            (
                "model.py), ",
                "mode.py), ",
                "page.md:5: WARNING: 'myst' cross-reference target not f",
            ),
            (
                "\\frac{{a}}{b}",
                "\\frac{{a}",
                "page.md:7: WARNING: formula \\frac{{a} can't be read: ",
            ),
            (
                "a < b",
                "\\unknown",
                "WARNING: formula \\unknown can't be read: character 0: Unknown comm",
            ),
            (
                '"a", ',
                '"z", ',
                "page.md:7: WARNING: docs/measured/z.json does not exist: expected one",
            ),
            (
                'run="b"',
                'hat="b"',
                "page.md:7: WARNING: docs/measured/a.json has no key 'hat': expec",
            ),
            ('`= loss("', '`= los("', "page.md:7: WARNING: 'los' is undefined"),
            ("else %-->", "els %-->", "page.md:23: WARNING: Encountered unknown tag 'els'."),
            (
                "Model.call",
                "Model.cal",
                "WARNING: Object named 'Model.cal' not found in include file",
            ),
        ],
    )
    def test_what_is_wrong_fails(self, tmp_path, capfd, good, bad, message):
        assert GOOD.count(good) == 1
        write_tree(tmp_path, GOOD.replace(good, bad))
        assert build(tmp_path) == 1
        assert message in re.sub("\x1b[^m]*m", "", capfd.readouterr().err)

    def test_a_typed_number_fails_in_the_course_alone(self, tmp_path, capfd):
        write_tree(tmp_path, "# Page\n\nA loss of 1.5.\n")
        assert build(tmp_path) == 0
        index = tmp_path / "docs/index.md"
        index.write_text(f"{index.read_text()}\nA loss of 1.5.\n")
        assert build(tmp_path) == 1
        message = "index.md:7: WARNING: 1.5 is typed: expected a measured number, `= loss(...)`, or"
        assert message in re.sub("\x1b[^m]*m", "", capfd.readouterr().err)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns the folder of the whole site, with a playground, built as by make docs."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "runs").mkdir()
    (folder / "runs/playground.html").write_text("<title>play</title>")
    options = ["-d", folder / "doctrees", "-D", f"course_runs={folder / 'runs'}"]
    command = [sys.executable, "-m", "sphinx", *FLAGS, *options, "docs", folder / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=OF_A_COMMAND)
    assert (result.returncode, result.stderr) == (0, "")
    return folder / "site"


class Links(html.parser.HTMLParser):
    """Addresses of a page that a browser loads, those that a reader follows, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values.get("id")}
        addresses = [values[key] for key in ("href", "src", "data", "poster") if values.get(key)]
        (self.followed if tag == "a" else self.loaded).extend(addresses)


def test_make_runs_the_command_that_is_tested():
    command = ["make", "--dry-run", "-o", ".venv/docs.stamp", "docs", "RUNS=runs/mine"]
    printed = subprocess.check_output(command, cwd=ROOT, text=True)
    assert f"-m sphinx {' '.join(FLAGS)} " in printed
    assert " -D course_runs=runs/mine docs docs/_site" in printed


@pytest.mark.slow
def test_every_page_is_there_and_the_site_is_small(built):
    for page in PAGES:
        assert (built / f"{page}.html").exists()
    assert "ladder/playground.html" in (built / "play.html").read_text()
    files = [path for path in built.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 1e6
    assert (built / "ladder/playground.html").read_text() == "<title>play</title>"


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere_and_every_link_leads_somewhere(built):
    links = {path: Links(path) for path in built.rglob("*.html")}
    assert len(links) > len(PAGES)
    for path, found in links.items():
        for address in found.loaded:
            url = urlsplit(address)
            assert url.scheme in ("", "data") and not url.netloc, (path, address)
        for address in (*found.loaded, *found.followed):
            url = urlsplit(address)
            if not url.scheme and not url.netloc:
                target = (path.parent / unquote(url.path)).resolve() if url.path else path
                assert target.is_file(), (path, address)
                if target.suffix == ".html" and target in links:
                    # The theme's own link to the top of a page.
                    assert unquote(url.fragment) in links[target].anchors | {"top"}, address
    for path in built.rglob("*.css"):
        for address in re.findall(r"url\(([^)]*)\)|@import ([^;]*)", path.read_text()):
            assert "".join(address).strip("\"'").startswith(("data:", "#")), (path, address)


@pytest.mark.slow
class TestBrowser:
    """The pages as a reader sees them."""

    __test__ = browser.is_wanted()

    @pytest.mark.long
    def test_no_page_is_wider_than_a_phone_or_asks_a_server(self, built):
        names = [*PAGES, "source/models/gpt2.py", "source/sweeps/index", "search", "genindex"]
        with browser.launch() as chromium:
            page = chromium.new_page(viewport={"width": 390, "height": 844})
            seen, problems = [], []
            page.on("request", lambda request: seen.append(request.url))
            page.on("pageerror", lambda error: problems.append(str(error)))
            for name in names:
                page.goto((built / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") == 390, name
        assert len(seen) >= len(names) and problems == []
        own = (built.as_uri(), "data:")
        assert [url for url in seen if not url.startswith(own)] == []

    @pytest.mark.long
    @pytest.mark.parametrize("name", ["index", "how_to/sweep", "comparison"])
    def test_axe_finds_nothing(self, built, name):
        with browser.launch() as chromium:
            for width, scheme in ((1280, "light"), (390, "dark")):
                screen = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
                page = chromium.new_page(**screen)
                page.goto((built / f"{name}.html").as_uri())
                found = Axe().run(page)
                assert found.violations_count == 0, found.generate_report()
                page.close()
