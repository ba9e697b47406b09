"""Peak FLOP/s: published or measured, kept, and never measured unasked."""

import itertools
import os
from types import SimpleNamespace

import jax
import pytest

import run_folder
import train
from runtime import peak
from runtime.devices import data_mesh
from tests.test_train import smoke
from training.setup import set_up

MEASURE = {"train.measure_peak": True}


@pytest.fixture
def measurements(monkeypatch):
    """The products that are timed from now on."""
    seen, prepare = [], peak.prepare

    def remember(mesh, dtype, left, right):
        seen.append((dtype, left.shape, right.shape))
        return prepare(mesh, dtype, left, right)

    monkeypatch.setattr(peak, "prepare", remember)
    return seen


def test_a_peak_is_measured_once_for_each_precision_and_number_of_cores(
    measurements, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    found = [peak.measured(data_mesh(1), "float32") for _ in range(2)]
    assert found[0] == found[1] > 0
    size = peak.CPU_SIZE
    assert measurements == [("float32", (size, size), (size, size))]
    peak.measured(data_mesh(1), "bfloat16")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(77), raising=False)
    peak.measured(data_mesh(1), "float32")
    assert [dtype for dtype, *_ in measurements] == ["float32", "bfloat16", "float32"]


def test_the_fastest_of_all_calls_and_shapes_counts(monkeypatch):
    seconds = iter([9, 5, 7, 6, 8, *[40] * 5])  # The first call, which compiles, is not timed.
    now = [0.0]

    def prepare(left, right):
        calls = itertools.count()

        def product():
            now[0] += next(seconds) if next(calls) else 1e9

        return product

    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert peak.fastest(prepare, [(2, 3, 5), (4, 3, 5)]) == 2 * 2 * 3 * 5 / 5


def test_utilization_is_the_share_of_the_measured_peak(tmp_path):
    train.train_and_evaluate(smoke("bigram", **MEASURE), tmp_path / "run")
    setup = set_up(smoke("bigram", **MEASURE))
    measured = list(run_folder.read_lines(tmp_path / "run/metrics.jsonl"))[1:]
    for line in measured:
        flops_per_token = setup.flops_per_step().gradient / (4 * setup.context_length)
        per_second = line["train/tokens_per_second"] * flops_per_token
        assert line["train/mfu"] == pytest.approx(per_second / setup.peak_flops)


def test_a_published_peak_is_not_measured(measurements, monkeypatch, tmp_path, capsys):
    train.train_and_evaluate(smoke("bigram"), tmp_path / "unknown")
    assert "MFU" not in capsys.readouterr().out
    record = run_folder.read_lines(tmp_path / "unknown/metrics.jsonl")
    assert not any("train/mfu" in line for line in record)
    monkeypatch.setitem(peak.PUBLISHED, jax.devices()[0].device_kind, 1e9)
    config = smoke("bigram", **MEASURE)
    assert set_up(config).peak_flops == 1e9
    train.train_and_evaluate(config, tmp_path / "known")
    assert capsys.readouterr().out.count("%") == 4
    assert measurements == []
