"""Rehearsal of the whole GPU check on a CPU, PyTorch included."""

import json
from contextlib import ExitStack

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_parts import small
from benchmarks.gpu_parts.finding import Finding
from benchmarks.gpu_parts.stages import ALLOWED
from tests.command import run

# Parts that need a GPU to pass, or that are only recorded.
RECORDED = {"peak", "small", "small-48", "texts", "ladder"}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Returns the rows of the check by name, and its output."""
    output = tmp_path_factory.mktemp("check") / "check.json"
    words = ["-m", "benchmarks.gpu_check", "--rehearse", "--seconds=1500", f"--output={output}"]
    result = run(*words, JAX_PLATFORMS="cpu", seconds=1600)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(output.read_text())
    assert found["rehearsal"] is True and found["machine"]["versions"]["torch"]
    return {row["name"]: row for row in found["rows"]}, result.stdout


def test_every_part_has_a_row_and_none_failed(rehearsal):
    rows, printed = rehearsal
    assert list(rows) == [name for name, *_ in gpu_check.PARTS]
    for name, row in rows.items():
        assert "error" not in row and row["measured"] is True
        assert row["passed"] is (None if name in RECORDED else True)
        assert printed.count(row["figures"]["summary"]) == 2


def test_each_part_records_its_figures(rehearsal):
    figures = {name: row["figures"] for name, row in rehearsal[0].items()}
    assert figures["peak"]["platform"] == "cpu"
    assert min(figures["peak"][key] for key in ("tflops", "gb_per_second")) > 0
    stages = {key: value for key, value in figures["stages"].items() if key != "summary"}
    assert len(stages) == 6
    for name, row in stages.items():
        assert row["largest"] <= row["allowed"] == ALLOWED[name.split()[-1]]
    assert 0 < max(figures["attention"]["errors"].values()) < 1e-2
    assert figures["attention"]["has_kernels"] is False
    assert figures["resume"]["deterministic"] == {"bit_equal": True, "largest_difference": 0.0}
    assert figures["generation"]["equal_tokens"] == figures["generation"]["num_tokens"] == 40
    assert figures["small"]["peer_variant"] == "eager"
    assert len(figures["small"]["times"]) == figures["small"]["runs"] == 3
    assert figures["small"]["flops"] > 0 and figures["small"]["mfu"] is None
    assert all(figures["small-48"][form]["ours"] > 0 for form in ("whole", "8 chunks"))
    losses = [point["val/loss"] for point in figures["baby"]["curve"]]
    assert losses[0] > figures["baby"]["target"] > losses[-1]
    assert figures["texts"]["64 texts"]["tokens_per_second"] > 0
    assert figures["ladder"]["gpt2"]["val/loss"] < 4


def test_pytorch_runs_eagerly_where_it_cannot_compile(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    small.save_job(small.config_of(12, rehearse=True), tmp_path)
    finding = Finding(tmp_path / "figures.json")
    finding.put(precision="float32", platform="cpu")
    with ExitStack() as stack:
        modes = ["torch.compile", "eager"]
        worker = small.start_peer(stack, str(tmp_path), finding, modes)
        assert worker.seconds(1) > 0
    variant = finding.figures["peer_variant"]
    assert variant.startswith("eager, for torch.compile failed: ") and "Error" in variant
