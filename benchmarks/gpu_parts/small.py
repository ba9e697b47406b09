"""GPT-2 small's training step beside the same model in PyTorch, in turns on the same batches.

Both in bfloat16 and without dropout, 12 windows of 1,024 tokens. PyTorch has torch.compile,
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

from benchmarks import bounded, rounds, works
from benchmarks.gpu_parts.finding import Finding

TURNS = 3
UPDATES = 30
RATIO, MFU, STRETCH_MFU = 1.0, 0.35, 0.45


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if ours is as fast as PyTorch at least, with enough of the device's peak."""
    finding.put(lowest_ratio_allowed=RATIO, lowest_mfu_allowed=MFU, stretch_mfu=STRETCH_MFU)
    finding.judge(None if rehearse else False)
    config = config_of(12, rehearse)
    with tempfile.TemporaryDirectory(prefix="small-") as folder, ExitStack() as stack:
        save_work(config, Path(folder))
        started = time.perf_counter()
        ours = stack.enter_context(rounds.start("benchmarks.ours", folder))
        ready_seconds = {"ours": time.perf_counter() - started}
        alone = speed(ours, config)
        finding.put(**ours.facts, **alone, ready_seconds=ready_seconds, summary=say(alone))
        if not importlib.util.find_spec("torch"):
            finding.put(peer_variant="PyTorch is not installed")
            return
        started = time.perf_counter()
        # Compiling takes a CPU a minute, however small the model is.
        modes = ["eager"] if rehearse else ["torch.compile", "eager"]
        peer = start_peer(stack, folder, finding, modes)
        ready_seconds["peer"] = time.perf_counter() - started
        times = [[side.seconds(1) for side in (ours, peer)] for _ in range(TURNS)]
        memory = {"ours": ours.device_mib, "peer": peer.device_mib}
    # In place of the turn of ours alone.
    scale = 1e3 / config.train.steps_per_dispatch
    compared = rounds.compare(*([scale * one for one in side] for side in zip(*times, strict=True)))
    beside = utilisation(ours, config, compared["ours"])
    finding.put(**compared, **beside, times=times, ready_seconds=ready_seconds, device_mib=memory)
    variant = finding.figures["peer_variant"].partition(",")[0]
    finding.put(summary=f"{compared['ratio']:.2f} x PyTorch ({variant}), {say(finding.figures)}")
    if not rehearse:
        finding.judge(compared["ratio"] >= RATIO and (beside["mfu"] or 0.0) >= MFU)


def say(row: dict) -> str:
    """Returns the time of an update, and its share of the peak, in words."""
    share = f", MFU {row['mfu']:.1%}" if row["mfu"] else ""
    return f"{row['ours']:.4g} ms an update{share}"


def config_of(batch_size: int, rehearse: bool, **changes: int) -> ConfigDict:
    """Returns GPT-2 small's config for a GPU, or a rehearsal's."""
    config = works.config_named("gpt2.py:smoke" if rehearse else "gpt2.py:small")
    config.model.dropout_rate = 0.0
    config.train.precision = "bfloat16"
    config.train.batch_size = 4 if rehearse else batch_size
    # A turn is one dispatch.
    config.train.steps_per_dispatch = 2 if rehearse else UPDATES
    config.update_from_flattened_dict(changes)
    return config


def save_work(config: ConfigDict, folder: Path) -> None:
    """Writes what workers need to train with that config."""
    works.load(works.Work("training", "gpt2.py:small", {}), config).save(folder)


def start_peer(
    stack: ExitStack, folder: str, finding: Finding, modes: Sequence[str]
) -> rounds.Worker:
    """Returns PyTorch's worker in the first of `modes` that works; says so, and why not before.

    Raises RuntimeError if none does.
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
    """Returns a worker that ends with the stack.

    Raises RuntimeError with the error that it printed if it ends before it is ready.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".log") as errors:
        try:
            return stack.enter_context(rounds.start(module, *arguments, errors=errors))
        except RuntimeError:
            raise RuntimeError(bounded.error_line(Path(errors.name))) from None


def speed(worker: rounds.Worker, config: ConfigDict) -> dict:
    """Returns the speed of one turn of a worker of ours, and the most memory it had."""
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
    """Returns tokens a second, and the share of the device's peak by two counts of FLOPs.

    XLA's count of the plain definition, and 6 N + 12 L T D a token (Chowdhery et al., 2022,
    appendix B). None on a device whose peak is not known.
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
