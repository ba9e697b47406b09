"""Training compiled for an H100: its kernels, its products and its memory.

The environment that compiles is made by `make gpu-compile`, and by the first of these tests where
CI is set. Elsewhere they are left out with a warning if it is not there.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from benchmarks import deviceless
from tests.command import AS_USERS_DO, ROOT, assert_refused, run

STAMP = ROOT / ".venv-gpu-compile/setup.stamp"
PYTHON = ROOT / ".venv-gpu-compile/bin/python"
SMALL = "gpt2.py:small train.batch_size=12 model.dropout_rate=0.0"


def is_wanted():
    """Returns True if there is the environment, or if there has to be."""
    if STAMP.exists() or os.environ.get("CI"):
        return True
    warnings.warn(
        "nothing is compiled for a GPU: `make gpu-compile` sets up what can", stacklevel=2
    )
    return False


@pytest.fixture(scope="module")
def environment():
    """The environment that compiles for a GPU, up to date."""
    made = subprocess.run(["make", str(STAMP.relative_to(ROOT))], cwd=ROOT, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()


@pytest.fixture(scope="module")
def rows(environment):
    """The rows of `make gpu-compile`, by experiment."""
    result = subprocess.run(
        [PYTHON, "-m", "benchmarks.gpu_compile", "--json"],
        cwd=ROOT,
        env={**os.environ, **AS_USERS_DO},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    made = map(json.loads, result.stdout.splitlines())
    return {row.pop("experiment"): row for row in made}


@pytest.mark.slow
class TestCompiled:
    """For one H100, by XLA's compiler for it."""

    __test__ = is_wanted()

    def test_the_five_stages_and_the_presets_for_a_gpu_are_compiled(self, rows):
        assert len(rows) == 9
        for row in rows.values():
            assert row["device"] == deviceless.H100
            assert row["measured"] is False
            assert row["flops"] > 0 < row["peak_bytes"]

    def test_a_run_in_bfloat16_has_no_product_of_float32_factors(self, rows):
        for name, row in rows.items():
            products = set(row["products"])
            if name.startswith("bigram"):
                assert products == set()  # A table has none.
            elif name.startswith("self_attention"):
                assert (row["precision"], products) == ("float32", {"f32"})
            else:
                assert (row["precision"], products) == ("bfloat16", {"bf16"}), name

    @pytest.mark.parametrize(
        ("experiment", "num_layers"),
        [
            ("multi_head_attention.py", 1),
            ("transformer_decoder.py", 3),
            ("gpt2.py", 3),
            ("gpt2.py:baby", 6),
            (SMALL, 12),
            (f"{SMALL} train.loss_chunks=8", 12),
        ],
    )
    def test_attention_is_one_kernel_a_layer_and_direction(self, experiment, num_layers, rows):
        row = rows[experiment]
        assert (row["attention_forward"], row["attention_backward"]) == (num_layers, num_layers)

    def test_recomputed_blocks_run_their_attention_twice_forward(self, rows):
        plain, remat = rows[SMALL], rows[f"{SMALL} train.loss_chunks=8 train.remat=blocks"]
        assert (remat["attention_forward"], remat["attention_backward"]) == (24, 12)
        assert remat["flops"] == plain["flops"]  # The model's own, whatever is recomputed.

    @pytest.mark.parametrize(
        ("changes", "most_gigabytes"),
        [
            ("", 10.5),
            (" train.loss_chunks=8", 7.9),
            (" train.loss_chunks=8 train.remat=blocks", 3.3),
        ],
    )
    def test_gpt2_small_needs_so_much_memory_at_most(self, changes, most_gigabytes, rows):
        assert rows[SMALL + changes]["peak_bytes"] <= most_gigabytes * 1e9

    def test_an_experiment_of_ones_own_is_compiled_with_its_flags(self, environment):
        target = ["EXPERIMENT=self_attention.py:smoke", "FLAGS=--config.train.batch_size=6"]
        made = subprocess.run(
            ["make", "gpu-compile", *target],
            cwd=ROOT,
            env={**os.environ, **AS_USERS_DO},
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        assert "self_attention.py:smoke train.batch_size=6" in made.stdout
        assert "compiled, not measured" in made.stdout

    def test_the_newer_libraries_train_to_the_same_losses(self, environment, tmp_path):
        """Those for Python from 3.12 on, beside those for 3.11, if that is what the tests run."""
        losses = []
        for name, python in (("these", sys.executable), ("newer", PYTHON)):
            flags = ["--config=experiments/gpt2.py:smoke", f"--workdir={tmp_path / name}"]
            variables = {**os.environ, "WANDB_MODE": "disabled"}
            subprocess.run([python, "main.py", *flags], cwd=ROOT, env=variables, check=True)
            losses.append(val_losses(tmp_path / name))
        assert len(losses[0]) == 3
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def val_losses(workdir: Path) -> list[float]:
    """Every validation loss of a run."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line["val/loss"] for line in map(json.loads, lines) if "val/loss" in line]


def test_where_nothing_compiles_for_a_gpu_it_says_so():
    assert_refused(run("-m", "benchmarks.gpu_compile"), "make gpu-compile sets up what can")
