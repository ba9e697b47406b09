"""A worker that does a work in PyTorch.

`python -m benchmarks.theirs FOLDER MODE PRECISION THREADS [DEVICE]`: MODE is "eager" or
"torch.compile", PRECISION float32 or, by the autocast of PyTorch, bfloat16, DEVICE cpu or cuda.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import peers
from benchmarks.rounds import Work, serve

Run = Callable[[int], float]


class Variant(NamedTuple):
    """A way of running a model, but for the number of threads."""

    mode: str
    precision: str
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{self.mode}, {self.precision}"

    def of(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`function`, run this way."""

        def cast(*tensors: torch.Tensor) -> torch.Tensor:
            is_bfloat16 = self.precision == "bfloat16"
            with torch.autocast(self.device, torch.bfloat16, enabled=is_bfloat16):
                return function(*tensors)

        return torch.compile(cast) if self.mode == "torch.compile" else cast


def training(work: Work, variant: Variant) -> Run:
    """Passes of an update with each of the K batches."""
    config = work.config
    model = peers.build(config.model, work.vocab_size).train().to(variant.device)
    optimizer = peers.build_optimizer(config.optimizer, model)
    loss_of_batch = variant.of(partial(peers.loss_of, model))
    # Targets have to be int64 there.
    batches = list(torch.from_numpy(work.arrays["batches_KBT"]).long().to(variant.device))

    def run(passes: int) -> float:
        for _ in range(passes):
            for batch_BT in batches:
                loss = peers.train_step(
                    loss_of_batch, optimizer, batch_BT, config.optimizer.grad_clip_norm
                )
        return loss.item()

    return run


def evaluation(work: Work, variant: Variant) -> Run:
    """Passes over all windows; the result is the mean of nats per token."""
    model = peers.build(work.config.model, work.vocab_size).eval().to(variant.device)
    nats_of_batch = variant.of(partial(peers.nats_of, model))
    windows_NBT = torch.from_numpy(work.arrays["windows_NBT"]).long().to(variant.device)
    mask_NBT = torch.from_numpy(work.arrays["mask_NBT"]).to(variant.device)
    num_targets = int(mask_NBT.sum())

    @torch.inference_mode()
    def run(passes: int) -> float:
        for _ in range(passes):
            nats = 0.0
            for windows_BT, mask_BT in zip(windows_NBT, mask_NBT, strict=True):
                nats += nats_of_batch(windows_BT, mask_BT)
            mean = float(nats) / num_targets
        return mean

    return run


def generation(work: Work, variant: Variant) -> Run:
    """Passes that write all of the texts; the result is the last token. Eager, float32 alone."""
    model = peers.build_generator(work.config.model, work.vocab_size).to(variant.device)
    prompts_BT = torch.from_numpy(work.arrays["prompts_BT"]).long().to(variant.device)
    sample = work.config.sample

    def run(passes: int) -> float:
        for _ in range(passes):
            tokens_BT = peers.generate(
                model, prompts_BT, num_tokens=sample.num_tokens, temperature=sample.temperature
            )
        return float(tokens_BT[-1, -1])

    return run


def build(work: Work, variant: Variant) -> Run:
    """What does passes over `work`."""
    torch.manual_seed(work.config.seed)
    kinds = {"training": training, "evaluation": evaluation, "generation": generation}
    return kinds[work.kind](work, variant)


def device_mib(device: str) -> float | None:
    """Returns the most GPU memory this process has had at once, in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None


def main(folder: str, mode: str, precision: str, threads: str, device: str = "cpu") -> None:
    """Serves passes over the work in `folder`."""
    torch.set_num_threads(int(threads))
    if device == "cuda" and precision == "bfloat16":
        # What autocast leaves in float32 may run on tensor cores, as nanoGPT has it.
        torch.set_float32_matmul_precision("high")
    variant = Variant(mode, precision, device)
    serve(build(Work.load(Path(folder)), variant), partial(device_mib, device))


if __name__ == "__main__":
    main(*sys.argv[1:])
