"""Benchmark: the PyTorch models compute what ours compute, turns are fair, and it runs."""

import dataclasses
import json
import math
import subprocess
import sys
import time
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from benchmarks import growth, peers, results, rounds, start, variants, workloads
from benchmarks import theirs as theirs_worker
from experiments import default
from inference.evaluation import evaluate
from runtime.devices import data_mesh
from tests import command
from tests.stages import NO_DROPOUT, TINY, T, V
from training import optimizer, schedule
from training.setup import check_config
from training.step import create_state, initial_metrics, train_steps

BATCH_BT = np.random.default_rng(0).integers(0, V, (2, T + 1))


def build_peer(model, name):
    """Returns the PyTorch model in the sizes of ours."""
    config = default.get_config().model
    for field in dataclasses.fields(model):
        if field.name in config and field.name != "name":
            config[field.name] = getattr(model, field.name)
    config.name = name
    return peers.build(config, V)


def copy_params(peer, params):
    """Copies our weights into a PyTorch model with as many parameters of the same shapes."""
    with torch.no_grad():
        for theirs, ours in zip(peer.parameters(), in_peer_order(params), strict=True):
            assert theirs.shape == ours.shape
            theirs.copy_(torch.from_numpy(np.array(ours)))


def in_peer_order(params):
    """Returns our arrays in the order of the PyTorch model's parameters."""
    if "next_token" in params:
        return [params["next_token"]["embedding"]]
    embed = params["embed"]
    arrays = [embed["token"]["embedding"], embed["position"]["embedding"]]
    # Stages 2 and 3 are one block with only attention.
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
    """Compares the logits, then the losses of four updates, from the same weights."""
    config = default.get_config()
    config.optimizer.update(learning_rate=0.05, final_learning_rate=0.05, warmup_steps=0)
    model = TINY[name].clone(**NO_DROPOUT) if name == "gpt2" else TINY[name]
    state = create_state(model, optimizer.build(config.optimizer), 0, data_mesh(len(BATCH_BT)))
    rates = schedule.build(config.optimizer, num_steps=10)
    peer = build_peer(model, name)
    copy_params(peer, state.params)

    logits_BTV = jax.jit(model.apply)({"params": state.params}, BATCH_BT[:, :-1])
    batch_BT = torch.from_numpy(BATCH_BT)
    np.testing.assert_allclose(logits_BTV, peer(batch_BT[:, :-1]).detach(), atol=1e-5)

    adamw = peers.build_optimizer(config.optimizer, peer)
    loss_of_batch = partial(peers.loss_of, peer)
    losses = []
    for _ in range(4):
        state, metrics = train_steps(
            state, initial_metrics(data_mesh(1)), BATCH_BT[None], 0, 1, 0, 0, rates
        )
        loss = peers.train_step(loss_of_batch, adamw, batch_BT, config.optimizer.grad_clip_norm)
        np.testing.assert_allclose(metrics.loss, loss, rtol=1e-4)
        losses.append(loss)
    assert losses[-1] < losses[0] - 0.1


def test_peers_apply_dropout_in_training_only():
    assert TINY["gpt2"].dropout_rate > 0
    peer = build_peer(TINY["gpt2"], "gpt2")
    tokens_BT = torch.from_numpy(BATCH_BT[:, :-1])
    assert (peer.train()(tokens_BT) != peer(tokens_BT)).any()
    assert (peer.eval()(tokens_BT) == peer(tokens_BT)).all()


class Clock(rounds.Worker):
    """Worker whose pass takes a known time; it logs each turn."""

    def __init__(self, name, pass_seconds, log):
        self.name, self.pass_seconds, self.log = name, pass_seconds, log

    def seconds(self, passes):
        self.log.append((self.name, passes))
        return passes * self.pass_seconds


def test_sides_take_turns_of_at_least_the_time_asked_for():
    log = []
    ours, peer = Clock("ours", 0.001, log), Clock("peer", 0.4, log)
    times = rounds.interleave(ours, peer, rounds=3, min_seconds=0.3)
    np.testing.assert_allclose(times, [[0.001] * 3, [0.4] * 3])
    turns = log[-6:]
    assert [name for name, _ in turns] == ["ours", "peer"] * 3
    assert min(passes for name, passes in turns if name == "ours") >= 300
    assert {passes for name, passes in turns if name == "peer"} == {1}


def test_the_ratio_is_taken_within_each_round():
    """A slowdown in one round affects both sides, but not the ratio."""
    figures = rounds.compare([1.0, 3.0, 1.0], [2.0, 6.0, 2.2])
    assert (figures["ours"], figures["peer"], figures["ratio"]) == (1.0, 2.2, 2.0)
    assert (figures["lowest_ratio"], figures["highest_ratio"]) == (2.0, 2.2)
    assert figures["runs"] == 3


def worker_that(serves):
    """Starts a process that serves with these arguments."""
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
        started = time.perf_counter()
        # All of the passes, and nothing but them: the process takes longer to start.
        assert 0.2 <= worker.seconds(2) <= time.perf_counter() - started
        assert 10 < worker.mib < 2**20


def test_a_worker_that_diverges_or_dies_is_an_error():
    with worker_that("lambda passes: float('nan')") as one:
        worker = rounds.Worker(one)
        with pytest.raises(RuntimeError, match="the result is nan"):
            worker.seconds(1)
    with worker_that("lambda passes: passes == 1 or exit(7)") as one:
        worker = rounds.Worker(one)
        with pytest.raises(RuntimeError, match="ended with code 7"):
            worker.seconds(2)
    died = pytest.raises(RuntimeError, match="ended with code 7")
    with worker_that("lambda passes: exit(7)") as one, died:
        rounds.Worker(one)


def test_a_job_is_loaded_as_it_was_saved(tmp_path):
    config = workloads.config_of("baby-8", smoke=True, num_tokens=8)
    saved = workloads.prepare(workloads.WORKLOADS["baby-8"], config)
    saved.save(tmp_path)
    loaded = rounds.Job.load(tmp_path)
    assert loaded.config.to_json() == config.to_json()
    assert loaded.arrays.keys() == {"batches_KBT"}
    assert loaded.arrays["batches_KBT"].shape == (1, 8, config.model.context_length + 1)
    np.testing.assert_array_equal(loaded.arrays["batches_KBT"], saved.arrays["batches_KBT"])
    assert loaded._replace(config=None, arrays=None) == saved._replace(config=None, arrays=None)


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_workload_has_a_valid_config(name):
    config = workloads.config_of(name, smoke=False, num_tokens=500)
    check_config(config)
    smoke = workloads.config_of(name, smoke=True, num_tokens=500)
    assert smoke.model.embed_dim <= 16
    path = workloads.experiment(name, smoke=False).partition(":")[0]
    assert (command.ROOT / "experiments" / path).is_file()


def test_the_laptop_has_nanogpts_sizes():
    model = workloads.config_of("laptop", smoke=False, num_tokens=8)
    sizes = ("num_layers", "num_heads", "embed_dim", "context_length", "dropout_rate")
    assert [model.model[size] for size in sizes] == [4, 4, 128, 64, 0.0]
    assert model.train.batch_size == 12


def evaluation_job():
    """Returns a short split and its job for the tiny GPT-2; the last window is not full."""
    config = default.get_config()
    config.model.update(name="gpt2", context_length=T, embed_dim=12, num_heads=3, num_layers=2)
    config.eval.batch_size = 2
    tokens = np.random.default_rng(1).integers(0, V, 4 * T - 2)
    arrays = workloads.evaluation(SimpleNamespace(val=tokens), config)
    return tokens, rounds.Job("evaluation", config, V, False, arrays)


def test_the_peer_evaluates_to_the_same_nats(monkeypatch):
    tokens, job = evaluation_job()
    params = TINY["gpt2"].init(jax.random.key(0), BATCH_BT[:, :T])["params"]
    ours = evaluate(
        TINY["gpt2"],
        params,
        tokens,
        np.ones(V, np.int64),
        batch_size=2,
        context_length=T,
        mesh=data_mesh(2),
    )
    peer = build_peer(TINY["gpt2"], "gpt2")
    copy_params(peer, params)
    monkeypatch.setattr(peers, "build", lambda config, vocab_size: peer)
    theirs = theirs_worker.build(job, theirs_worker.Variant("eager", "float32"))(1)
    np.testing.assert_allclose(theirs, ours["loss"], rtol=1e-5)


def test_the_peer_in_bfloat16_is_close_to_float32():
    _, job = evaluation_job()
    exact, rounded = (
        theirs_worker.build(job, theirs_worker.Variant("eager", precision))(1)
        for precision in ("float32", "bfloat16")
    )
    assert exact != rounded
    np.testing.assert_allclose(rounded, exact, rtol=0.01)


def test_the_generator_has_the_sizes_of_our_gpt2():
    """It has as many parameters; tests/interop compares the logits of the same class with ours."""
    config = default.get_config().model
    config.update(context_length=9, embed_dim=12, num_heads=3, num_layers=2)
    generator = peers.build_generator(config, V)
    ours = TINY["gpt2"].clone(context_length=9)
    params = ours.init(jax.random.key(0), BATCH_BT[:, :T])["params"]
    assert sum(weight.numel() for weight in generator.parameters()) == sum(
        leaf.size for leaf in jax.tree.leaves(params)
    )


def test_the_generator_samples_num_tokens_from_the_whole_vocabulary():
    config = default.get_config().model
    config.update(context_length=100, embed_dim=12, num_heads=3, num_layers=1)
    prompts_BT = torch.zeros((3, 8), dtype=torch.long)
    torch.manual_seed(0)
    generator = peers.build_generator(config, vocab_size=80)
    tokens_BT = peers.generate(generator, prompts_BT, num_tokens=92, temperature=5.0)
    assert tokens_BT.shape == (3, 92)
    assert len(tokens_BT.unique()) > 70  # The default samples from the 50 likeliest.


def test_without_a_compiler_or_fast_bfloat16_variants_say_why(monkeypatch):
    job = workloads.prepare(
        workloads.WORKLOADS["laptop"], workloads.config_of("laptop", smoke=True, num_tokens=8)
    )
    monkeypatch.setenv("CXX", "no-compiler-of-this-name")
    monkeypatch.setattr(variants, "bfloat16_slowness", lambda: 40.0)
    found, left_out = variants.candidates(job)
    assert [variant.name for variant in found] == ["eager, float32"]
    assert left_out == {
        "torch.compile": "no C++ compiler (no-compiler-of-this-name): not tried",
        "bfloat16": "products take 40 times as long: not tried",
    }
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(variants, "bfloat16_slowness", lambda: 0.5)
    found, left_out = variants.candidates(job)
    assert len(found) == 4 and not left_out
    job.config.train.precision = "float32"
    assert {variant.precision for variant in variants.candidates(job)[0]} == {"float32"}


def test_the_fastest_number_of_threads_is_chosen(monkeypatch):
    """A pass here slows down with the threads; a heavy one gets all of them without a search."""
    chosen, now = [4], [0.0]
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    asked = []

    def run(passes):
        asked.append(chosen[-1])
        now[0] += 0.5 * chosen[-1]
        return 0.0

    threads, seconds = variants.choose_threads(run, heavy=False)
    assert (threads, seconds, set(asked), chosen[-1]) == (1, 0.5, {1, 2, 4}, 4)
    asked.clear()
    assert variants.choose_threads(run, heavy=True)[0] == 4
    assert asked == [4, 4]


MACHINE = {
    "cpu": "one",
    "instructions": "avx2",
    "system": "Linux-1",
    "versions": {"jax": "1"},
    "peak_gflops": {"ours": {"float32": 100.0}, "peer": {"float32": 80.0}},
}
ROW = {
    "work": "laptop",
    "precision": "float32",
    "peer_precision": "float32",
    "flops": 1e9,
    "ours": 20.0,
    "peer": 40.0,
}


def read(path):
    """Returns the content of a results file."""
    return json.loads(path.read_text())


def test_a_part_replaces_its_own_rows_and_keeps_the_others(tmp_path):
    path = tmp_path / "results.json"
    results.Results(path, deepcopy(MACHINE)).put([dict(ROW), {**ROW, "work": "baby"}])
    # Our peak is lower, as on a busy machine; the peer's is higher.
    slower = {**MACHINE, "system": "Linux-2", "peak_gflops": {"ours": {"float32": 50.0}}}
    slower["peak_gflops"]["peer"] = {"float32": 200.0}
    again = results.Results(path, deepcopy(slower))
    assert "keeps its other rows" in again.note
    again.put([{**ROW, "ours": 10.0}])
    now = read(path)
    assert [(row["work"], row["ours"]) for row in now["rows"]] == [("laptop", 10.0), ("baby", 20.0)]
    assert now["machine"]["peak_gflops"] == {"ours": {"float32": 100.0}, "peer": {"float32": 200.0}}
    # 1 GFLOP in 10 ms is half of 200 GFLOP/s, the peak that all rows are relative to.
    assert now["rows"][0]["utilisation"] == {"ours": 0.5, "peer": 0.125}
    assert now["rows"][1]["utilisation"] == {"ours": 0.25, "peer": 0.125}


@pytest.mark.parametrize(
    "before",
    [
        {**MACHINE, "cpu": "another"},
        {**MACHINE, "instructions": "avx2 avx512f"},
        {**MACHINE, "versions": {"jax": "2"}},
        {"cpu": "one"},
    ],
)
def test_results_of_another_machine_are_not_mixed_in(tmp_path, before):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine": before, "rows": [{**ROW, "work": "baby"}]}))
    now = results.Results(path, deepcopy(MACHINE))
    assert "starts anew" in now.note
    now.put([dict(ROW)])
    assert [row["work"] for row in read(path)["rows"]] == ["laptop"]


def run_smoke(output, names, *flags):
    """Runs the benchmark on workloads in their smallest sizes."""
    return command.run(
        *("-m", "benchmarks.compare", "--smoke", f"--works={names}", "--rounds=2"),
        *("--seconds=0.01", f"--output={output}", *flags),
        # Fast on a busy machine, too: one thread, no torch.compile.
        OMP_NUM_THREADS="1",
        CXX="no-compiler-of-this-name",
    )


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    output = tmp_path / "results.json"
    chosen = "bigram,laptop,evaluation,generation-baby-1,help,wrong-flag,input-bigram"
    result = run_smoke(output, chosen, "--tokens=9")
    assert result.returncode == 0, result.stderr
    assert f"{output} is new" in result.stdout
    found = read(output)
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["torch"].startswith("2.13.0")
    assert "hugetlb" in found["machine"]["GLIBC_TUNABLES"]
    assert all(peaks["float32"] > 0.1 for peaks in found["machine"]["peak_gflops"].values())
    rows = {row["work"]: row for row in found["rows"]}
    assert {f"{name}:smoke" for name in chosen.split(",")} == rows.keys()
    for work, row in rows.items():
        assert row["runs"] == 2 and 0 < row["ours"] < math.inf
        assert work in result.stdout
        if row["peer"] is None:
            assert row["ratio"] is row["peer_variant"] is None
            continue
        assert 0 < row["lowest_ratio"] <= row["ratio"] <= row["highest_ratio"] < math.inf
        assert row["peer_variant"] == "eager, float32, 1 thread"
        assert row["variants"]["eager, float32"] > 0
        assert all(mib > 50 for mib in row["peak_mib"].values())
        assert f"{row['ratio']:.2f}" in result.stdout
    for work in ("bigram:smoke", "laptop:smoke"):
        assert rows[work]["flops"] > 0
        assert all(0 < share < 1 for share in rows[work]["utilisation"].values())
    assert rows["input-bigram:smoke"]["share"] > 0
    units = [rows[f"{name}:smoke"]["unit"] for name in ("bigram", "evaluation", "help")]
    assert units == ["ms/step", "s", "s"]
    assert rows["generation-baby-1:smoke"]["unit"] == "ms/token"
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_growth_is_measured_along_its_axes(tmp_path):
    output = tmp_path / "growth.json"
    command.run("-m", "benchmarks.growth", "--smoke", "--axes=context,text", f"--output={output}")
    measured = json.loads(output.read_text())
    assert [(row["axis"], row["size"]) for row in measured["rows"]] == [
        ("context", 64),
        ("context", 128),
        ("text", 1),
        ("text", 4),
    ]
    for row in measured["rows"]:
        assert row["ours"] > 0 < row["peer"] and min(row["mib"].values()) > 0
    assert [slope["axis"] for slope in measured["slopes"]] == ["context", "text"]
    assert "PyTorch" in output.with_suffix(".svg").read_text()


def test_a_slope_is_the_exponent_of_a_power_law():
    assert growth.exponent({64: 3 * 64**1.5, 128: 3 * 128**1.5, 256: None}) == pytest.approx(1.5)
    assert growth.exponent({64: 1.0}) is None


def test_starts_are_timed_to_the_first_step(tmp_path):
    result = run_smoke(tmp_path / "results.json", "start", "--rounds=1")
    assert result.returncode == 0, result.stderr
    first, again = read(tmp_path / "results.json")["rows"]
    assert [first["work"], again["work"]] == ["start-first:smoke", "start-again:smoke"]
    assert first["ours"] > again["ours"] > 0.5  # Programs come from the cache.
    assert min(first["peer"], again["peer"]) > 0.5


def test_an_unexpected_exit_code_of_a_command_is_an_error(monkeypatch):
    monkeypatch.setitem(start.COMMANDS, "help", (["--help"], 0))
    with pytest.raises(RuntimeError, match=r"\['--help'\] ended with code 1"):
        start.command("help", "gpt2.py", 1)


def test_a_run_that_ends_before_its_first_step_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended with code 2 before step 1"):
        start.seconds_to_step_1("gpt2.py:huge", tmp_path / "run", tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--works=gpt3"], "--works=gpt3: expected some of bigram,self_attention"),
        (["--works="], "--works=: expected some of bigram,self_attention"),
        (["--rounds=0"], "--rounds=0 --seconds=0.5: expected 1 or more, and above 0"),
        (["--seconds=0"], "--rounds=7 --seconds=0.0: expected 1 or more, and above 0"),
        (["--tokens=0"], "--tokens=0: expected 1 to 504, because generation-baby-1 has a context"),
        (
            ["--tokens=505"],
            "--tokens=505: expected 1 to 504, because generation-baby-1 has a context",
        ),
        (["--output=/nowhere/results.json"], "--output=/nowhere/results.json: expected a .json"),
        (["--output=benchmarks"], "--output=benchmarks: expected a .json file in a folder"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message):
    command.assert_refused(command.run("-m", "benchmarks.compare", *flags), message)
