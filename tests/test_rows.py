"""Results for each row of batches: by both cores of a CPU, and by one device."""

import re

import jax
import numpy as np
import pytest

from inference import continuations, evaluation, rows
from models import sharding
from runtime import devices
from tests.stages import TINY, T, V, init

C, B = 3, 4


@pytest.fixture(scope="module")
def batches():
    """Tokens [C, B, T + 1], and a mask of the targets, [C, B, T]."""
    draw = np.random.default_rng(0)
    return draw.integers(0, V, (C, B, T + 1), np.int32), draw.random((C, B, T)) < 0.7


def both_ways(function, name, batches, monkeypatch):
    """Returns the results of both cores, and of one device."""
    mesh = devices.data_mesh(B)
    found = []
    for least in (-1, np.inf):
        monkeypatch.setattr(sharding, "LEAST_WORK", least)
        found.append(rows.over(function, TINY[name], init(name), mesh)(*batches))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_both_cores_find_what_one_device_does(name, batches, monkeypatch):
    of_halves, whole = both_ways(evaluation.nats_of_batches, name, batches, monkeypatch)
    assert (len(of_halves.sharding.device_set), len(whole.sharding.device_set)) == (2, 1)
    assert whole.shape == (C, B)
    np.testing.assert_allclose(of_halves, whole, rtol=1e-6)
    of_halves, whole = both_ways(continuations.nats_and_hits, name, batches, monkeypatch)
    np.testing.assert_allclose(of_halves[0], whole[0], rtol=1e-6)
    np.testing.assert_array_equal(of_halves[1], whole[1])


@pytest.mark.slow
def test_no_half_waits_for_the_other(batches, monkeypatch):
    """The compiled program has no communication: a row depends on no other row."""
    monkeypatch.setattr(sharding, "LEAST_WORK", -1)
    texts = []

    def compile_only(function, static, args):
        texts.append(function.lower(*static, *args).compile().as_text())
        return lambda *_: None

    monkeypatch.setattr(rows.programs, "for_model", compile_only)
    rows.over(evaluation.nats_of_batches, TINY["gpt2"], init("gpt2"), devices.data_mesh(B))(
        *batches
    )
    (text,) = texts
    # Each device has a module of half of the rows.
    assert f"s32[{C},{B // 2},{T + 1}]" in text and f"s32[{C},{B},{T + 1}]" not in text
    assert not re.search(r" (all|collective|reduce-scatter)[\w-]*\(", text)


@pytest.mark.slow
def test_an_odd_batch_is_left_to_one_device(batches, monkeypatch):
    monkeypatch.setattr(sharding, "LEAST_WORK", -1)
    odd = [array[:, 1:] for array in batches]
    of_rows = rows.over(
        evaluation.nats_of_batches, TINY["gpt2"], init("gpt2"), devices.data_mesh(1)
    )
    assert [len(of_rows(*some).sharding.device_set) for some in (odd, batches)] == [1, 2]


@pytest.mark.slow
def test_parameters_are_sent_to_both_devices_once(batches, monkeypatch):
    monkeypatch.setattr(sharding, "LEAST_WORK", -1)
    sent = []

    def replicate(params, pair):
        sent.append(params)
        return jax.device_put(params, jax.sharding.NamedSharding(pair, jax.P()))

    monkeypatch.setattr(rows.devices, "replicate", replicate)
    of_rows = rows.over(
        continuations.nats_and_hits, TINY["gpt2"], init("gpt2"), devices.data_mesh(B)
    )
    for length in (2, 3, T):
        of_rows(batches[0][..., : length + 1], batches[1][..., :length])
    assert len(sent) == 1
