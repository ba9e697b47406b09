"""GPT-2 small's training step against the same model in PyTorch, in turns on the same batches.

Both in bfloat16 without dropout, on 12 windows of 1,024 tokens; PyTorch with torch.compile,
autocast and its fused AdamW.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks import commands, rounds, workloads
from benchmarks.gpu_parts.finding import Finding

TURNS = 3
UPDATES = 30
RATIO, MFU, STRETCH_MFU = 1.0, 0.35, 0.45


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if ours is at least as fast as PyTorch, at the required MFU."""
    finding.put(lowest_ratio_allowed=RATIO, lowest_mfu_allowed=MFU, stretch_mfu=STRETCH_MFU)
    finding.judge(None if rehearse else False)
    config = config_of(12, rehearse)
    with tempfile.TemporaryDirectory(prefix="small-") as folder, ExitStack() as stack:
        save_job(config, Path(folder))
        started = time.perf_counter()
        ours = stack.enter_context(rounds.start("benchmarks.ours", folder))
        ready_seconds = {"ours": time.perf_counter() - started}
        alone = speed(ours, config)
        finding.put(**ours.facts, **alone, ready_seconds=ready_seconds, summary=summarize(alone))
        if not importlib.util.find_spec("torch"):
            finding.put(peer_variant="PyTorch is not installed")
            return
        started = time.perf_counter()
        # torch.compile takes a minute on a CPU, however small the model is.
        modes = ["eager"] if rehearse else ["torch.compile", "eager"]
        peer = start_peer(stack, folder, finding, modes)
        ready_seconds["peer"] = time.perf_counter() - started
        times = [[side.seconds(1) for side in (ours, peer)] for _ in range(TURNS)]
        memory = {"ours": ours.device_mib, "peer": peer.device_mib}
    scale = 1e3 / config.train.steps_per_dispatch
    compared = rounds.compare(*zip(*times, strict=True), scale=scale)
    used = utilisation(ours, config, compared["ours"])
    # Replaces the figures of our turn alone.
    finding.put(**compared, **used, times=times, ready_seconds=ready_seconds, device_mib=memory)
    variant = finding.figures["peer_variant"].partition(",")[0]
    finding.put(
        summary=f"{compared['ratio']:.2f} x PyTorch ({variant}), {summarize(finding.figures)}"
    )
    if not rehearse:
        finding.judge(compared["ratio"] >= RATIO and (used["mfu"] or 0.0) >= MFU)


def summarize(row: dict) -> str:
    """Returns a line with the time of an update and its MFU."""
    share = f", MFU {row['mfu']:.1%}" if row["mfu"] else ""
    return f"{row['ours']:.4g} ms an update{share}"


def config_of(batch_size: int, rehearse: bool, **changes: int) -> ConfigDict:
    """Returns the config of GPT-2 small for a GPU, or of a rehearsal."""
    config = workloads.config_named("gpt2.py:smoke" if rehearse else "gpt2.py:small")
    config.model.dropout_rate = 0.0
    config.train.precision = "bfloat16"
    config.train.batch_size = 4 if rehearse else batch_size
    # One dispatch a turn.
    config.train.steps_per_dispatch = 2 if rehearse else UPDATES
    config.update_from_flattened_dict(changes)
    return config


def save_job(config: ConfigDict, folder: Path) -> None:
    """Writes the job of training with `config` for a worker."""
    workloads.prepare(workloads.Workload("training", "gpt2.py:small", {}), config).save(folder)


def start_peer(
    stack: ExitStack, folder: str, finding: Finding, modes: Sequence[str]
) -> rounds.Worker:
    """Starts PyTorch's worker in the first of `modes` that works.

    Records the mode and the errors of those before it. Raises RuntimeError if none works.
    """
    facts, failed = finding.figures, ""
    options = [facts["precision"], str(os.cpu_count())]
    options.append("cuda" if facts["platform"] == "gpu" else "cpu")
    for mode in modes:
        finding.put(peer_variant=mode + failed)
        try:
            return start_quietly(stack, "benchmarks.theirs", folder, mode, *options)
        except RuntimeError as error:
            failed += f", for {mode} failed: {error}"
    raise RuntimeError(f"PyTorch does not run{failed}")


def start_quietly(stack: ExitStack, module: str, *arguments: str) -> rounds.Worker:
    """Starts a worker that ends with the stack.

    Raises RuntimeError with the worker's error if it ends before it is ready.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".log") as errors:
        try:
            return stack.enter_context(rounds.start(module, *arguments, errors=errors))
        except RuntimeError:
            raise RuntimeError(commands.error_line(Path(errors.name))) from None


def speed(worker: rounds.Worker, config: ConfigDict) -> dict:
    """Returns the speed of one turn of our worker, and its peak memory."""
    ms = 1e3 * worker.seconds(1) / config.train.steps_per_dispatch
    memory = {"ours": worker.device_mib}
    return {
        "unit": "ms/update",
        "updates_a_turn": config.train.steps_per_dispatch,
        "ours": ms,
        **utilisation(worker, config, ms),
        "device_mib": memory,
    }


def utilisation(worker: rounds.Worker, config: ConfigDict, ms: float) -> dict:
    """Returns tokens per second, and the model FLOP utilisation (MFU) by two counts of FLOPs.

    "mfu" uses XLA's count of the reference implementation, "palm_mfu" 6 N + 12 L T D per token
    (Chowdhery et al., 2022, appendix B). None on a device whose peak is unknown.
    """
    model, tokens = config.model, config.train.batch_size * config.model.context_length
    attention = 12 * model.num_layers * model.context_length * model.embed_dim
    palm = (6 * worker.facts["num_params"] + attention) * tokens
    peak = worker.facts["peak_flops"]
    mfu, palm_mfu = (peak and flops / (ms / 1e3) / peak for flops in (worker.facts["flops"], palm))
    return {
        "tokens_per_second": tokens / (ms / 1e3),
        "palm_flops": palm,
        "mfu": mfu,
        "palm_mfu": palm_mfu,
    }
