"""Worker process that runs a job in PyTorch.

`python -m benchmarks.theirs FOLDER MODE PRECISION THREADS [DEVICE]`: MODE is "eager" or
"torch.compile", PRECISION float32 or bfloat16 (by autocast), DEVICE cpu or cuda.
"""

from runtime import process

if __name__ == "__main__":
    process.require_packages("torch", ".venv-peers", "peers")


import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import peers
from benchmarks.rounds import Job, Run, serve


class Variant(NamedTuple):
    """Mode, precision and device that PyTorch runs a model in."""

    mode: str
    precision: str
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Label of the variant in the results."""
        return f"{self.mode}, {self.precision}"

    def wrap(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Returns `function` in the variant's mode and precision."""

        def cast(*tensors: torch.Tensor) -> torch.Tensor:
            is_bfloat16 = self.precision == "bfloat16"
            with torch.autocast(self.device, torch.bfloat16, enabled=is_bfloat16):
                return function(*tensors)

        return torch.compile(cast) if self.mode == "torch.compile" else cast


def training(job: Job, variant: Variant) -> Run:
    """Returns passes that update with each of the K batches."""
    config = job.config
    model = peers.build(config.model, job.vocab_size).train().to(variant.device)
    optimizer = peers.build_optimizer(config.optimizer, model)
    loss_of_batch = variant.wrap(partial(peers.loss_of, model))
    # PyTorch's cross_entropy takes int64 targets.
    batches = list(torch.from_numpy(job.arrays["batches_KBT"]).long().to(variant.device))

    def run(passes: int) -> float:
        for _ in range(passes):
            for batch_BT in batches:
                loss = peers.train_step(
                    loss_of_batch, optimizer, batch_BT, config.optimizer.grad_clip_norm
                )
        return loss.item()

    return run


def evaluation(job: Job, variant: Variant) -> Run:
    """Returns passes over all windows; the result is the mean nats per token."""
    model = peers.build(job.config.model, job.vocab_size).eval().to(variant.device)
    nats_of_batch = variant.wrap(partial(peers.nats_of, model))
    windows_NBT = torch.from_numpy(job.arrays["windows_NBT"]).long().to(variant.device)
    mask_NBT = torch.from_numpy(job.arrays["mask_NBT"]).to(variant.device)
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


def generation(job: Job, variant: Variant) -> Run:
    """Returns passes that generate all the texts (eager, float32); the result is the last token."""
    model = peers.build_generator(job.config.model, job.vocab_size).to(variant.device)
    prompts_BT = torch.from_numpy(job.arrays["prompts_BT"]).long().to(variant.device)
    sample = job.config.sample

    def run(passes: int) -> float:
        for _ in range(passes):
            tokens_BT = peers.generate(
                model, prompts_BT, num_tokens=sample.num_tokens, temperature=sample.temperature
            )
        return float(tokens_BT[-1, -1])

    return run


def build(job: Job, variant: Variant) -> Run:
    """Returns passes over a job."""
    torch.manual_seed(job.config.seed)
    kinds = {"training": training, "evaluation": evaluation, "generation": generation}
    return kinds[job.kind](job, variant)


def device_mib(device: str) -> float | None:
    """Returns the peak GPU memory of this process in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None


def main(folder: str, mode: str, precision: str, threads: str, device: str = "cpu") -> None:
    """Serves passes over the job in `folder`."""
    torch.set_num_threads(int(threads))
    if device == "cuda" and precision == "bfloat16":
        # TF32 for the products that autocast leaves in float32, as in nanoGPT.
        torch.set_float32_matmul_precision("high")
    variant = Variant(mode, precision, device)
    serve(build(Job.load(Path(folder)), variant), partial(device_mib, device))


if __name__ == "__main__":
    main(*sys.argv[1:])
