"""Training compiled for H100s: its kernels, its products, its memory, and what they send.

The tests need the environment of `make gpu-compile`. With CI set the first test makes it; otherwise
they are left out with a warning if it is missing.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import run_folder
from tests.command import AS_USERS_DO, ROOT, assert_refused, run
from training import topology

STAMP = ROOT / ".venv-gpu-compile/setup.stamp"
PYTHON = ROOT / ".venv-gpu-compile/bin/python"
SMALL = "gpt2.py:small train.batch_size=12 model.dropout_rate=0.0"
FSDP = "train.batch_size=96 model.dropout_rate=0.0 mesh.fsdp=8"
EIGHT = [FSDP.replace("fsdp", "data"), FSDP, f"{FSDP} optimizer.name=muon"]

pytestmark = pytest.mark.long


def is_wanted():
    """Returns True if the environment exists, or if CI requires it."""
    if STAMP.exists() or os.environ.get("CI"):
        return True
    warnings.warn(
        "tests of compiling for a GPU are left out: run `make gpu-compile` first", stacklevel=2
    )
    return False


@pytest.fixture(scope="module")
def environment():
    """Makes the environment that compiles for a GPU, or updates it."""
    made = subprocess.run(["make", str(STAMP.relative_to(ROOT))], cwd=ROOT, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()


@pytest.fixture(scope="module")
def rows(environment):
    """Returns the rows of `make gpu-compile`, by experiment."""
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


class TestCompiled:
    """Programs that XLA compiles for one H100."""

    __test__ = is_wanted()

    def test_the_five_stages_and_the_presets_for_a_gpu_are_compiled(self, rows):
        assert len(rows) == 12
        for row in rows.values():
            assert row["device"] == topology.H100
            assert row["measured"] is False
            assert row["flops"] > 0 < row["peak_bytes"]

    def test_a_run_in_bfloat16_has_no_product_of_float32_factors(self, rows):
        for name, row in rows.items():
            products = set(row["products"])
            if name.startswith("bigram"):
                assert products == set()  # A table lookup has no product.
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
        assert remat["flops"] == plain["flops"]  # FLOPs of the model, without recomputation.

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

    def test_eight_gpus_divide_a_model_at_little_cost(self, rows):
        data, fsdp, muon = (rows[f"gpt2.py:small {changes}"] for changes in EIGHT)
        for row in (data, fsdp, muon):
            assert row["num_devices"] == 8
            assert (row["attention_forward"], row["attention_backward"]) == (12, 12)
            assert set(row["products"]) == {"bf16"}
        # The gradient of each parameter is summed once, those of the tied embedding twice.
        tied = 50_257 * 768
        assert data["collectives"] == {
            "all-reduce": pytest.approx(4 * (data["num_params"] + tied), rel=1e-3)
        }
        assert fsdp["peak_bytes"] <= 1.05 * data["peak_bytes"]
        sent = fsdp["collectives"]
        # Every matrix is gathered in bfloat16, and its gradient arrives as an eighth in float32.
        assert 2 * fsdp["num_params"] <= sent["all-gather"] <= 0.6e9
        assert sent["reduce-scatter"] + sent["all-reduce"] <= 0.6e9
        assert sum(muon["collectives"].values()) <= 1.5 * sum(sent.values())

    def test_a_named_experiment_is_compiled_with_its_flags(self, environment):
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

    def test_a_dry_run_for_gpus_that_are_elsewhere(self, environment, tmp_path):
        flags = ["--config=gpt2:smoke", "--config.train.batch_size=64", "--config.mesh.fsdp=16"]
        made = subprocess.run(
            [PYTHON, "main.py", *flags, "--dry_run", "--for=h100x16", f"--workdir={tmp_path}/run"],
            cwd=ROOT,
            env={**os.environ, **AS_USERS_DO},
            capture_output=True,
            text=True,
        )
        assert (made.returncode, made.stderr) == (0, "")
        first, compiling, *_, memory, sent, least = made.stdout.splitlines()
        assert first.startswith("gpt2:smoke · 7,888 parameters · 16 x gpu (fsdp 16), bfloat16 · ")
        assert compiling == "compiling for 16 x NVIDIA H100 80GB HBM3, without them"
        assert memory.startswith("memory of each device: ") and "all-gather" in sent
        assert re.fullmatch(
            r"an update takes [\d.]+ ms or more, by a roofline, not measured: [\d.]+ ms of "
            r"computing, [\d.]+ ms of reading and writing, [\d.]+ ms of sending",
            least,
        )
        assert not list(tmp_path.iterdir())

    def test_the_newer_libraries_train_to_the_same_losses(self, environment, tmp_path):
        """Compares the libraries of the newer Python with those of the tests' Python."""
        losses = []
        for name, python in (("these", sys.executable), ("newer", PYTHON)):
            flags = ["--config=experiments/gpt2.py:smoke", f"--workdir={tmp_path / name}"]
            flags += ["--config.sample.every_steps=0"]
            # The newer compiler refuses flags of the tests that it does not know.
            variables = {**os.environ, **AS_USERS_DO, "WANDB_MODE": "disabled"}
            subprocess.run([python, "main.py", *flags], cwd=ROOT, env=variables, check=True)
            losses.append(val_losses(tmp_path / name))
        assert len(losses[0]) == 3
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def val_losses(workdir: Path) -> list[float]:
    """Returns every validation loss of a run."""
    lines = run_folder.read_lines(workdir / run_folder.METRICS)
    return [line["val/loss"] for line in lines if "val/loss" in line]


def test_without_the_compiler_the_command_says_how_to_get_it():
    assert_refused(
        run("-m", "benchmarks.gpu_compile"),
        "make gpu-compile sets up .venv-gpu-compile, in which it can",
    )
