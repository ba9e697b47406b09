"""The benchmark: its PyTorch models do our models' work, turns are fair, and it runs."""

import dataclasses
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch

import optimizer
import train_step
from benchmarks import peers, rounds
from devices import data_mesh
from experiments import default
from tests import command
from tests.stages import TINY, T, V

BATCH_BT = np.random.default_rng(0).integers(0, V, (2, T + 1))


def build_peer(model, name):
    """The PyTorch model of the same sizes."""
    config = default.get_config().model
    for field in dataclasses.fields(model):
        if field.name in config and field.name != "name":
            config[field.name] = getattr(model, field.name)
    config.name = name
    return peers.build(config, V)


def put(peer, params):
    """Gives a PyTorch model our weights. Strict: as many parameters, of the same shapes."""
    with torch.no_grad():
        for theirs, ours in zip(peer.parameters(), in_peer_order(params), strict=True):
            assert theirs.shape == ours.shape
            theirs.copy_(torch.from_numpy(np.array(ours)))


def in_peer_order(params):
    """Our arrays as the PyTorch model lists its own."""
    if "next_token" in params:
        return [params["next_token"]["embedding"]]
    embed = params["embed"]
    arrays = [embed["token"]["embedding"], embed["position"]["embedding"]]
    # Stages 2 and 3 are one block with nothing but attention.
    for block in [params[name] for name in sorted(params) if "block_" in name] or [params]:
        attention = block["attention"]
        parts = [attention[name] for name in ("query", "key", "value")]
        stacked = {
            leaf: np.concatenate([part[leaf] for part in parts], axis=-1) for leaf in parts[0]
        }
        arrays += norm(block.get("attention_norm")) + dense(stacked) + dense(attention.get("out"))
        if "mlp" in block:
            arrays += norm(block["mlp_norm"]) + dense(block["mlp"]["up"])
            arrays += dense(block["mlp"]["down"])
    return arrays + norm(params.get("final_norm")) + dense(params.get("logits"))


def dense(params):
    if params is None:
        return []
    return [params["kernel"].T, *([params["bias"]] if "bias" in params else [])]


def norm(params):
    return [] if params is None else [params["scale"], params["bias"]]


@pytest.mark.parametrize("name", TINY)
def test_a_peer_trains_as_ours_does(name):
    """From the same weights, the same logits; and the same losses, one update after the other."""
    config = default.get_config()
    config.optimizer.update(learning_rate=0.05, final_learning_rate=0.05, warmup_steps=0)
    model = TINY[name].clone(dropout_rate=0.0) if name == "gpt2" else TINY[name]
    tx, _ = optimizer.build(config.optimizer, num_steps=10)
    state = train_step.create_state(model, tx, 0, data_mesh(len(BATCH_BT)))
    peer = build_peer(model, name)
    put(peer, state.params)

    logits_BTV = jax.jit(model.apply)({"params": state.params}, BATCH_BT[:, :-1])
    batch_BT = torch.from_numpy(BATCH_BT)
    np.testing.assert_allclose(logits_BTV, peer(batch_BT[:, :-1]).detach(), atol=1e-5)

    adamw = peers.build_optimizer(config.optimizer, peer)
    losses = []
    for _ in range(4):
        state, update = train_step.train_steps(
            state, train_step.no_update(), BATCH_BT[None], 0, 1, 0, 0
        )
        loss = peers.train_step(peer, adamw, batch_BT, config.optimizer.grad_clip_norm)
        np.testing.assert_allclose(update["train/loss"], loss, rtol=1e-4)
        losses.append(loss)
    assert losses[-1] < losses[0] - 0.1


def test_peers_drop_in_training_only():
    assert TINY["gpt2"].dropout_rate > 0
    peer = build_peer(TINY["gpt2"], "gpt2")
    tokens_BT = torch.from_numpy(BATCH_BT[:, :-1])
    assert (peer.train()(tokens_BT) != peer(tokens_BT)).any()
    assert (peer.eval()(tokens_BT) == peer(tokens_BT)).all()


class Clock(rounds.Worker):
    """A worker whose pass takes a known time; it notes when it is asked."""

    def __init__(self, name, pass_seconds, log):
        self.name, self.pass_seconds, self.log = name, pass_seconds, log

    def seconds(self, passes):
        self.log.append((self.name, passes))
        return passes * self.pass_seconds


def test_sides_take_turns_of_at_least_the_time_asked_for():
    log = []
    ours, peer = Clock("ours", 0.001, log), Clock("peer", 0.4, log)
    times = rounds.interleave(ours, peer, rounds=3, at_least=0.3)
    np.testing.assert_allclose(times, [[0.001] * 3, [0.4] * 3])
    turns = log[-6:]
    assert [name for name, _ in turns] == ["ours", "peer"] * 3
    assert min(passes for name, passes in turns if name == "ours") >= 300
    assert {passes for name, passes in turns if name == "peer"} == {1}


def test_the_ratio_is_taken_within_each_round():
    """A machine that is three times slower in one round changes both sides, not the ratio."""
    figures = rounds.compare([1.0, 3.0, 1.0], [2.0, 6.0, 2.2])
    assert (figures["ours"], figures["peer"], figures["ratio"]) == (1.0, 2.2, 2.0)
    assert (figures["lowest_ratio"], figures["highest_ratio"]) == (2.0, 2.2)
    assert figures["runs"] == 3


def worker_that(serves):
    code = f"from benchmarks.rounds import serve; serve({serves})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=command.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_worker_times_its_passes():
    with worker_that("lambda passes: __import__('time').sleep(0.1 * passes) or 1.0, a='b'") as one:
        worker = rounds.Worker(one)
        assert worker.facts == {"a": "b"}
        assert 0.2 <= worker.seconds(2) < 1


def test_a_worker_that_diverges_or_dies_is_an_error():
    with worker_that("lambda passes: float('nan')") as one:
        worker = rounds.Worker(one)
        with pytest.raises(RuntimeError, match="the loss is nan"):
            worker.seconds(1)
    with worker_that("lambda passes: exit(7)") as one:
        worker = rounds.Worker(one)
        with pytest.raises(RuntimeError, match="ended with code 7"):
            worker.seconds(1)


def test_the_benchmark_runs(tmp_path):
    output = tmp_path / "results.json"
    result = command.run(
        *("-m", "benchmarks.train_step", "--preset=smoke", "--stages=bigram,gpt2"),
        *("--rounds=2", "--seconds=0.01", f"--output={output}"),
        OMP_NUM_THREADS="1",  # Quick on a busy machine, too.
    )
    assert result.returncode == 0, result.stderr
    results = json.loads(output.read_text())
    assert results["machine"]["cores"] >= 1
    assert results["machine"]["versions"]["torch"].startswith("2.13.0")
    assert "hugetlb" in results["machine"]["GLIBC_TUNABLES"]
    works = {row["work"] for row in results["rows"]}
    assert works == {"training step, bigram", "training step, gpt2"}
    for row in results["rows"]:
        assert row["precision"] in ("float32", "bfloat16")
        assert (row["unit"], row["runs"]) == ("ms/step", 2)
        assert row["peer_variant"].startswith("eager, float32, ")
        assert all(0 < row[key] < math.inf for key in ("ours", "peer", "ratio"))
        assert row["work"] in result.stdout
        assert f"{row['ratio']:.2f}" in result.stdout


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stages=gpt3", "--stages=gpt3: expected some of bigram,self_attention"),
        ("--rounds=0", "--rounds=0 --seconds=0.5: expected 1 or more, and above 0"),
        ("--preset=huge", "unknown preset 'huge'"),
        ("--output=/nowhere/results.json", "--output=/nowhere/results.json is no file in a fol"),
        ("--output=benchmarks", "--output=benchmarks is no file in a folder"),
    ],
)
def test_a_wrong_flag_is_one_line(flag, message):
    command.assert_refused(command.run("-m", "benchmarks.train_step", flag), message)
