"""Worker process that runs a job with this harness: `python -m benchmarks.ours FOLDER`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import models
from benchmarks import workloads
from benchmarks.rounds import Job, Run, serve
from inference.evaluation import evaluate
from inference.generation import generate
from runtime import devices, process
from training.setup import Chunk, Setup, TrainSteps, set_up
from training.step import create_state, initial_metrics

Facts = dict[str, str | float | None]


class TrainStep:
    """Training step of a config as a run compiles it, with the state that it updates."""

    def __init__(self, config: ConfigDict, parts: Setup):
        self.state = create_state(parts.model, parts.tx, config.seed, parts.mesh)
        # The key of kept programs knows nothing of the reference definitions.
        self._parts = parts._replace(cache_key=None)
        self._metrics = initial_metrics(parts.mesh)
        self._run: TrainSteps | None = None

    def __call__(self, batches_KBT: jax.Array) -> jax.Array:
        """Updates the state with each of K batches in one dispatch; returns the last one's loss."""
        self._run = self._run or self._parts.compile_train_steps(self._arguments(batches_KBT))
        count = len(batches_KBT)
        chunk = Chunk(0, count, batches_KBT)
        self.state, self._metrics = self._run(self.state, self._metrics, chunk, 0, count)
        return self._metrics.loss

    def compiled_text(self, batches_KBT: jax.Array) -> str:
        """Returns the compiled program as XLA's text."""
        arguments = self._arguments(batches_KBT)
        lowered = self._parts.lower_train_steps(arguments)
        return lowered.compile(self._parts.compiler_options(arguments)).as_text()

    def _arguments(self, batches_KBT: jax.Array) -> tuple:
        return self._parts.step_arguments(self.state, self._metrics, batches_KBT)

    def facts(self) -> Facts:
        """Returns the FLOPs of an update, the number of parameters, and the device and its peak."""
        device = jax.devices()[0]
        return {
            "flops": self._parts.flops_per_step().gradient,
            "num_params": models.count_parameters(self.state.params)[0],
            "device": device.device_kind,
            "platform": device.platform,
            "peak_flops": self._parts.peak_flops,
        }


def train_losses(
    config: ConfigDict, precision: str, num_steps: int, *, reverse_rows: bool = False
) -> list[float]:
    """Trains and returns the loss at the end of each dispatch."""
    # The config would choose float32 on a CPU without fast bfloat16.
    parts = set_up(config)._replace(precision=precision)
    step = TrainStep(config, parts)
    drawn = workloads.draw(parts.data, config, num_steps)
    if reverse_rows:
        drawn = (batches_KBT[:, ::-1] for batches_KBT in drawn)
    found = [step(devices.split_batches(batches_KBT, parts.mesh)) for batches_KBT in drawn]
    return [float(loss) for loss in found]


def training(job: Job, parts: Setup) -> tuple[Run, Facts]:
    """Returns passes of one dispatch of K updates."""
    step = TrainStep(job.config, parts)
    batches_KBT = devices.split_batches(job.arrays["batches_KBT"], parts.mesh)

    def run(passes: int) -> float:
        for _ in range(passes):
            loss = step(batches_KBT)
        return float(loss)  # Waits for the device.

    return run, {"precision": parts.precision, **step.facts()}


def evaluation(job: Job, parts: Setup) -> tuple[Run, Facts]:
    """Returns passes over the validation split; the result is the mean nats per token."""
    params, data = init_params(job.config, parts), parts.data

    def run(passes: int) -> float:
        for _ in range(passes):
            score = evaluate(
                parts.model,
                params,
                data.val,
                data.tokenizer.token_bytes,
                batch_size=job.config.eval.batch_size,
                context_length=job.config.model.context_length,
                mesh=parts.mesh,
            )
        return score["loss"]

    return run, {"precision": "float32"}


def generation(job: Job, parts: Setup) -> tuple[Run, Facts]:
    """Returns passes that generate all the texts; the result is the last token."""
    params, prompts_BT = init_params(job.config, parts), job.arrays["prompts_BT"]

    def run(passes: int) -> float:
        for _ in range(passes):
            for tokens_BC in generate(
                parts.model,
                params,
                prompts_BT[0],
                num_tokens=job.config.sample.num_tokens,
                context_length=job.config.model.context_length,
                sampling=parts.sampling,
                seed=job.config.seed,
                num_samples=len(prompts_BT),
            ):
                last = tokens_BC
        return float(last[-1, -1])

    return run, {"precision": "float32"}


def drawing(job: Job, parts: Setup) -> tuple[Run, Facts]:
    """Returns passes that draw the next K batches as the loop does; the result is a token."""
    drawn = workloads.draw(parts.data, job.config, num_steps=2**31 - 1)

    def run(passes: int) -> float:
        for _ in range(passes):
            batches_KBT = next(drawn)
        return float(batches_KBT[-1, -1, -1])

    return run, {"precision": parts.precision}


def init_params(config: ConfigDict, parts: Setup) -> Any:
    """Returns fresh parameters on every device, without the optimizer's state."""
    init = jax.jit(parts.model.init)
    params = init(jax.random.key(config.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    return devices.replicate(params, parts.mesh)


def device_mib() -> float | None:
    """Returns the peak device memory of this process in MiB; None on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats["peak_bytes_in_use"] / 2**20


KINDS: dict[str, Callable[[Job, Setup], tuple[Run, Facts]]] = {
    "training": training,
    "evaluation": evaluation,
    "generation": generation,
    "input": drawing,
}


def main(folder: str) -> None:
    """Serves passes over the job in `folder`."""
    process.configure_jax()
    job = Job.load(Path(folder))
    run, facts = KINDS[job.kind](job, set_up(job.config))
    serve(run, device_mib, **facts)


if __name__ == "__main__":
    main(*sys.argv[1:])
