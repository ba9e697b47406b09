"""`main.py --dry_run`: its figures against closed forms, and its refusals."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gpt2
from runtime.errors import UserError
from tests.command import assert_refused, run
from training import compiled, roofline, topology
from training.compiled import Collective, Step, groups
from training.dry_run import device_bytes
from training.plan import state_shapes
from training.setup import set_up


def dry_run(*flags, **environment):
    """Returns what the command prints."""
    result = run("main.py", "--dry_run", *flags, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def figure(pattern, text):
    """Returns the number in a line, in bytes if a unit follows it."""
    number, unit = re.search(pattern + r"([\d.,e+]+) ?(GB|MB|kB)?", text).groups()
    scale = {"GB": 1e9, "MB": 1e6, "kB": 1e3, None: 1}[unit]
    return float(number.rstrip(",").replace(",", "")) * scale


@pytest.mark.long
def test_what_a_run_needs_is_printed_and_nothing_is_written(tmp_path):
    shown = dry_run("--config=gpt2:smoke", f"--workdir={tmp_path / 'run'}")
    assert shown.startswith("gpt2:smoke · 7,888 parameters · cpu, float32 · 1,115,394 characters")
    assert "an update: 4 windows of 16 tokens" in shown
    assert "20 updates: 1,280 tokens, 0.0 times the text" in shown
    setup = set_up(gpt2.get_config("smoke"))
    assert figure("of 16 tokens, ", shown) == pytest.approx(setup.flops_per_step().total, rel=5e-3)
    peak, weights, moments = (
        figure(before, shown) for before in ("each device: ", "of them ", " weights and ")
    )
    assert weights == pytest.approx(4 * 7888, rel=5e-3)
    assert moments == pytest.approx(8 * 7888, rel=5e-3)  # AdamW's, and a counter.
    assert peak > weights + moments
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_what_devices_send_is_the_sum_of_the_gradients():
    """Summed on a ring of four, each sends 2 x 3/4 of the gradient, and a few numbers more."""
    flags = ["--config=bigram:smoke", "--config.train.batch_size=8"]
    shown = dry_run(*flags, JAX_NUM_CPU_DEVICES="4")
    num_params = figure(r"^bigram:smoke · ", shown)
    sent = figure("in an update: ", shown)
    assert 4 * num_params * 1.5 <= sent <= 4 * (num_params + 10) * 1.5 + 50
    flags = ["--config=gpt2:smoke", "--config.mesh.fsdp=4"]
    divided = figure(" weights and ", dry_run(*flags, JAX_NUM_CPU_DEVICES="4"))
    assert 8 * 7888 / 4 < divided < 8 * 7888 / 3  # AdamW's two, of which a few stay whole.


@pytest.mark.long
def test_too_little_memory_is_refused():
    flags = ["--config=gpt2:smoke", "--config.train.batch_size=1000000"]
    result = run("main.py", "--dry_run", *flags, "--config.model.embed_dim=512")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.match(
        r"error: an update needs [\d.,]+ GB, and cpu has [\d.,]+ GB for it: lower", line
    )
    assert "memory of each device: " in result.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--for=h100x8"], "--for=h100x8: expected it with --dry_run"),
        (["--dry_run", "--for=h100x9"], "--for=h100x9: expected h100x1 to h100x8, or a multiple"),
        (["--dry_run", "--for=a100x8"], "--for=a100x8: expected h100x1 to h100x8"),
        (["--dry_run", "--for=h100x8"], "JAX can't compile for a GPU here (topology not impl"),
        (["--dry_run", "--num_processes=2"], "--dry_run takes one process: leave out --coord"),
        (["--dry_run", "--config.mesh.fsdp=3"], "JAX has 1 devices, not 3"),
    ],
)
def test_what_can_not_be_planned_is_refused(flags, message):
    assert_refused(run("main.py", "--config=gpt2:smoke", *flags), message)


@pytest.mark.parametrize(("name", "count"), [("h100x1", 1), ("h100x8", 8), ("h100x64", 64)])
def test_names_of_gpus(name, count):
    assert topology.count_of(name) == count
    for wrong in ("h100x0", "h100", "8", f"{name} ", "h100x-8", "h100x12"):
        with pytest.raises(UserError, match="expected h100x1"):
            topology.count_of(wrong)


# The spellings of the groups {0 1} {2 3} and {0 2} {1 3}, in releases of XLA.
WITHIN, ACROSS = [[0, 1], [2, 3]], [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("replica_groups={{0,1},{2,3}}, use_global_device_ids=true", WITHIN),
        ("channel_id=1, replica_groups=[2,2]<=[4], dimensions={0}", WITHIN),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", ACROSS),
        ("replica_groups=mesh['data'=2,'fsdp'=2,'tensor'=1] {'fsdp'}, dimensions={0}", WITHIN),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'data'}, use_global", ACROSS),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'data','fsdp'}, use", [[0, 1, 2, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3]]),
    ],
)
def test_groups_are_read(options, expected):
    np.testing.assert_array_equal(groups(options, 4), expected)


def test_a_ring_sends_so_much():
    """Of a tensor of 800 bytes, on eight devices."""
    of_eight = np.arange(8)[None]
    sent = {
        kind: Collective(kind, result, of_eight).sent_bytes
        for kind, result in (
            *(("all-gather", 800), ("reduce-scatter", 100), ("all-reduce", 800)),
            *(("all-to-all", 800), ("collective-permute", 800)),
        )
    }
    assert sent == {
        "all-gather": 700,
        "reduce-scatter": 700,
        "all-reduce": 1400,  # Both of them.
        "all-to-all": 700,
        "collective-permute": 800,
    }


def step_of(function, *args):
    """Returns the compiled program of a function."""
    text = jax.jit(function).lower(*args).compile().as_text()
    return Step(text, num_devices=1, peak_bytes=0, compile_seconds=0.0)


def test_accessed_bytes_are_those_of_operands_and_results():
    vector, left, right = jnp.zeros(1000), jnp.zeros((30, 40)), jnp.zeros((40, 20))
    assert step_of(lambda x: jnp.sin(x) + 1, vector).accessed_bytes() == 2 * 4000  # Fused.
    product = step_of(jnp.matmul, left, right).accessed_bytes()
    assert product == 4 * (30 * 40 + 40 * 20 + 30 * 20)

    def repeat(x, count):
        return jax.lax.fori_loop(0, count, lambda i, x: jnp.sin(x), x)

    once, times = (
        step_of(partial(repeat, count=count), vector).accessed_bytes() for count in (100, 300)
    )
    assert once >= 100 * 8000
    assert times - once == pytest.approx(2 / 3 * times, rel=0.05)


def test_a_roofline_divides_by_the_slower_network_between_nodes():
    def sending(count, **axes):
        sizes = "".join(f"'{name}'={size}," for name, size in axes.items()).rstrip(",")
        line = f"  %x = f32[1000]{{0}} all-gather(%p), replica_groups=mesh[{sizes}] {{'fsdp'}}, dim"
        text = f"ENTRY %main (p: f32[10]) -> f32[1000] {{\n{line}\n}}\n"
        return roofline.times(Step(text, count, 0, 0.0), flops=count * roofline.FLOPS).sending

    within, across = sending(64, data=8, fsdp=8), sending(64, data=4, fsdp=16)
    assert within == pytest.approx(4000 * 7 / 8 / roofline.NODE)
    assert across == pytest.approx(4000 * 15 / 16 / roofline.NETWORK)
    times = roofline.Times(1.0, 3.0, 2.0)
    assert (times.least, times.one_by_one) == (3.0, 6.0)


def test_bytes_of_a_device_are_those_of_its_parts():
    state = state_shapes(set_up(gpt2.get_config("smoke")))
    assert device_bytes(state.params) == 4 * 7888


def test_loops_and_branches_count_and_the_insides_of_fusions_do_not():
    text = """HloModule m
%inside (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %s = f32[8]{0} sine(%p)
}

%body (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%b), kind=kLoop, calls=%inside
}

%condition (c: f32[8]) -> pred[] {
  %c = f32[8]{0} parameter(0)
  ROOT %t = pred[] constant(true)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %r = f32[8]{0} all-reduce(%a), replica_groups={}, to_apply=%add
  ROOT %w = f32[8]{0} while(%r), condition=%condition, body=%body, LENGTH
}
"""
    known = text.replace("LENGTH", 'backend_config={"known_trip_count":{"n":"5"}}')
    for program, times in ((text, 1), (known, 5)):
        step = Step(program, 1, 0, 0.0)
        assert step.accessed_bytes() == 64 + times * 64
        assert [one.kind for one in step.collectives()] == ["all-reduce"]
    assert list(compiled.factor_types(text)) == []
