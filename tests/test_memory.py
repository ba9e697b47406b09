"""Tests of the memory check: a run's arithmetic, and the free memory of this machine."""

import jax
import pytest

import harness
from runtime import memory
from runtime.errors import UserError
from training import memory as of_runs
from training.setup import set_up


def needs(experiment, **changes):
    return of_runs.needs_of(set_up(harness.config_of(experiment, changes)))


def test_the_arithmetic_is_that_of_the_arrays():
    setup = set_up(harness.config_of("gpt2:smoke", {}))
    found, state = of_runs.needs_of(setup), setup.initial_state()
    assert found.num_params == sum(x.size for x in jax.tree.leaves(state.params))
    assert found.optimizer_bytes == sum(x.nbytes for x in jax.tree.leaves(state.opt_state))
    assert found.logits == (32, 16, 65)


def test_a_table_of_all_pairs_of_gpt2s_tokens():
    """Nothing of it is allocated."""
    found = needs("bigram", **{"data.tokenizer": "gpt2"})
    assert found.num_params == 50257**2
    assert found.total > 4 * 4 * 50257**2  # Weights, gradients and two moments of AdamW.
    assert found.arithmetic("adamw") == (
        "2,525,766,049 parameters x 4 bytes x 2 (weights, gradients) + 20.2 GB (state of adamw) + "
        "256 x 32 x 50,257 logits x 4 bytes = 42.1 GB"
    )


def test_a_part_of_a_batch_needs_less():
    parts = {"train.batch_size": 64, "eval.batch_size": 1, "train.grad_accumulation_steps": 4}
    assert needs("gpt2:smoke", **parts).logits == (16, 16, 65)
    assert needs("gpt2:smoke", **parts, **{"train.loss_chunks": 2}).logits == (16, 8, 65)


def test_copies_are_counted_for_each_device_of_one_memory():
    one = of_runs.Needs(10, 80, (1, 2, 5), copies=1, parts=1)
    assert one.total == 10 * 8 + 80 + 40
    assert one._replace(copies=3).total == 3 * (10 * 8 + 80) + 40
    assert "x 3 devices" in one._replace(copies=3).arithmetic("adamw")
    # Of what fsdp and tensor divide, each of eight devices has a quarter.
    many = one._replace(copies=8, parts=4)
    assert many.total == 2 * (10 * 8 + 80) + 40
    assert "x 8 devices / 4 parts + 1 x 2 x 5 logits" in many.arithmetic("adamw")


def test_this_machine_has_memory():
    free = memory.free_bytes(jax.devices("cpu")[0])
    assert free is None or 2**26 < free < 2**50


@pytest.mark.parametrize(
    ("limit", "refused"), [("max\n", False), (f"{2**60}\n", False), ("300000\n", True)]
)
def test_a_container_has_less(tmp_path, monkeypatch, limit, refused):
    """Files as the kernel writes them: a test may not make control groups."""
    files = {"memory.max": limit, "memory.current": "200000\n"}
    files["memory.stat"] = "anon 150000\ninactive_file 40000\n"
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    setup = set_up(harness.config_of("gpt2:smoke", {}))
    if not refused:
        of_runs.check(setup, "adamw")
        return
    assert memory.free_bytes(jax.devices("cpu")[0]) == 140000
    with pytest.raises(UserError, match=r"7,888 parameters .* and cpu has 0.1 MB free: choose a"):
        of_runs.check(setup, "adamw")
