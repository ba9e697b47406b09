"""GPT-2 small's training step beside the same model in PyTorch, in turns on the same batches.

Both in bfloat16 and without dropout, 12 windows of 1,024 tokens. PyTorch has torch.compile,
autocast and its fused AdamW.
"""

import importlib.util
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks import bounded, rounds, works
from benchmarks.gpu_parts.finding import Finding

TURNS = 3
UPDATES = 30
RATIO, MFU, STRETCH_MFU = 1.0, 0.35, 0.45
# Dense bfloat16 products, by the maker's tables.
PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}


def run(finding: Finding, rehearse: bool) -> None:
    """Passes if ours is as fast as PyTorch at least, with enough of the device's peak."""
    finding.put(lowest_ratio_allowed=RATIO, lowest_mfu_allowed=MFU, stretch_mfu=STRETCH_MFU)
    config = config_of(12, rehearse)
    with tempfile.TemporaryDirectory(prefix="small-") as folder, ExitStack() as stack:
        save_work(config, Path(folder))
        started = time.perf_counter()
        ours = stack.enter_context(rounds.start("benchmarks.ours", folder))
        finding.put(updates_a_turn=config.train.steps_per_dispatch)
        finding.put(ours_ready_seconds=time.perf_counter() - started, **ours.facts)
        finding.put(**speed(ours, config))
        finding.judge(None if rehearse else False)
        if not importlib.util.find_spec("torch"):
            finding.put(peer="PyTorch is not installed")
            return
        started = time.perf_counter()
        peer = start_peer(stack, folder, finding)
        finding.put(peer_ready_seconds=time.perf_counter() - started)
        turns = [[side.seconds(1) for side in (ours, peer)] for _ in range(TURNS)]
        # By the times beside PyTorch's, in place of those of ours alone.
        ms = [[1e3 * one / config.train.steps_per_dispatch for one in turn] for turn in turns]
        compared = rounds.compare(*zip(*ms, strict=True))
        finding.put(unit="ms/update", **compared, **utilisation(ours, config, compared["ours"]))
        finding.put(device_mib={"ours": ours.device_mib, "peer": peer.device_mib})
    mfu = finding.figures["mfu"]
    finding.judge(None if rehearse else compared["ratio"] >= RATIO and (mfu or 0) >= MFU)


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


def start_peer(stack: ExitStack, folder: str, finding: Finding) -> rounds.Worker:
    """Returns PyTorch's worker: compiled, or eager, which is said so, where that fails."""
    facts = finding.figures
    options = [facts["precision"], str(os.cpu_count())]
    options.append("cuda" if facts["platform"] == "gpu" else "cpu")
    try:
        finding.put(peer="torch.compile")
        return start_quietly(stack, "benchmarks.theirs", folder, "torch.compile", *options)
    except RuntimeError as error:
        finding.put(peer=f"eager, for torch.compile failed: {error}")
    return start_quietly(stack, "benchmarks.theirs", folder, "eager", *options)


def start_quietly(stack: ExitStack, module: str, *arguments: str) -> rounds.Worker:
    """Returns a worker that ends with the stack.

    Raises RuntimeError with the last line that the worker printed to standard error if it ends
    before it is ready.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".log") as errors:
        try:
            return stack.enter_context(rounds.start(module, *arguments, errors=errors))
        except RuntimeError as error:
            (last,) = bounded.tail(Path(errors.name), 1) or [str(error)]
            raise RuntimeError(last) from None


def speed(worker: rounds.Worker, config: ConfigDict) -> dict:
    """Returns the speed of one turn of a worker of ours, and the most memory it had."""
    ms = 1e3 * worker.seconds(1) / config.train.steps_per_dispatch
    return {"ours": ms, **utilisation(worker, config, ms), "device_mib": worker.device_mib}


def utilisation(worker: rounds.Worker, config: ConfigDict, ms: float) -> dict:
    """Returns tokens a second, and the share of the device's peak by two counts of FLOPs.

    XLA's count of the plain definition, and 6 N + 12 L T D a token (Chowdhery et al., 2022,
    appendix B). None on a device whose peak is not known.
    """
    model, tokens = config.model, config.train.batch_size * config.model.context_length
    attention = 12 * model.num_layers * model.context_length * model.embed_dim
    palm = (6 * worker.facts["num_params"] + attention) * tokens
    peak = PEAK_FLOPS.get(worker.facts["device"])
    mfu, palm_mfu = (peak and flops / (ms / 1e3) / peak for flops in (worker.facts["flops"], palm))
    return {
        "tokens_per_second": tokens / (ms / 1e3),
        "peak_flops": peak,
        "palm_flops": palm,
        "mfu": mfu,
        "palm_mfu": palm_mfu,
    }
