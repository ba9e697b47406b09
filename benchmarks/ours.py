"""A worker that does a work as the harness does it: `python -m benchmarks.ours FOLDER`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import models
from benchmarks.rounds import Work, serve
from inference.evaluation import evaluate
from inference.generation import generate
from input_pipeline import batches
from runtime import devices, process
from training.setup import Setup, set_up
from training.step import create_state, flops_per_step, initial_metrics, train_steps


class Updates:
    """Training step of a config as a run compiles it, with the state that it updates."""

    def __init__(self, config: ConfigDict, parts: Setup):
        self._parts = parts
        self._state = create_state(parts.model, parts.tx, config.seed, parts.mesh)
        self._metrics = initial_metrics(parts.mesh)
        self._constants = np.uint32(config.seed), config.train.max_skipped_updates
        self._options = dict(
            schedule=parts.schedule,
            num_parts=config.train.grad_accumulation_steps,
            objective=parts.objective,
        )
        self._batch_shape = config.train.batch_size, config.model.context_length + 1

    def __call__(self, batches_KBT: jax.Array) -> jax.Array:
        """Updates the state with each of K batches in one dispatch; returns the last one's loss."""
        bounds = 0, len(batches_KBT)
        with jax.default_matmul_precision(self._parts.precision):
            self._state, self._metrics = train_steps(
                self._state, self._metrics, batches_KBT, *bounds, *self._constants, **self._options
            )
        return self._metrics.loss

    def facts(self) -> dict[str, str | float | None]:
        """Returns what a speed is set against: FLOPs of an update, parameters, the device."""
        device = jax.devices()[0]
        return {
            "flops": flops_per_step(self._state, self._batch_shape),
            "num_params": models.count_parameters(self._state.params)[0],
            "device": device.device_kind,
            "platform": device.platform,
            "peak_flops": devices.peak_flops(self._parts.mesh),
        }


def training(work: Work, parts: Setup) -> None:
    """Passes of one dispatch of K updates."""
    updates = Updates(work.config, parts)
    batches_KBT = devices.split_batches(work.arrays["batches_KBT"], parts.mesh)

    def run(passes: int) -> float:
        for _ in range(passes):
            loss = updates(batches_KBT)
        return float(loss)  # Waits for the device.

    serve(run, device_mib, precision=parts.precision, **updates.facts())


def device_mib() -> float | None:
    """Returns the most device memory this process has had at once, in MiB; None on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats and stats["peak_bytes_in_use"] / 2**20


def evaluation(work: Work, parts: Setup) -> None:
    """Passes over the validation split; the result is the mean of nats per token."""
    params, data = fresh_params(work.config, parts), parts.data

    def run(passes: int) -> float:
        for _ in range(passes):
            score = evaluate(
                parts.model,
                params,
                data.val,
                data.tokenizer.token_bytes,
                batch_size=work.config.eval.batch_size,
                context_length=work.config.model.context_length,
                mesh=parts.mesh,
            )
        return score["loss"]

    serve(run, precision="float32")


def generation(work: Work, parts: Setup) -> None:
    """Passes that write all of the texts; the result is the last token."""
    params, prompts_BT = fresh_params(work.config, parts), work.arrays["prompts_BT"]

    def run(passes: int) -> float:
        for _ in range(passes):
            for tokens_BC in generate(
                parts.model,
                params,
                prompts_BT[0],
                num_tokens=work.config.sample.num_tokens,
                context_length=work.config.model.context_length,
                sampling=parts.sampling,
                seed=work.config.seed,
                num_samples=len(prompts_BT),
            ):
                last = tokens_BC
        return float(last[-1, -1])

    serve(run, precision="float32")


def drawing(work: Work, parts: Setup) -> None:
    """Passes that draw the next dispatch of K batches, as the loop does; the result is a token."""
    config = work.config
    drawn = batches.train_batches(
        parts.data.train,
        seed=config.seed,
        batch_size=config.train.batch_size,
        context_length=config.model.context_length,
        steps_per_dispatch=config.train.steps_per_dispatch,
        start_step=0,
        num_steps=2**31 - 1,
    )

    def run(passes: int) -> float:
        for _ in range(passes):
            _, batches_KBT = next(drawn)
        return float(batches_KBT[-1, -1, -1])

    serve(run, precision=parts.precision)


def fresh_params(config: ConfigDict, parts: Setup) -> Any:
    """Parameters without the optimizer's state, on every device."""
    init = jax.jit(parts.model.init)
    params = init(jax.random.key(config.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    return devices.replicate(params, parts.mesh)


SERVE: dict[str, Callable[[Work, Setup], None]] = {
    "training": training,
    "evaluation": evaluation,
    "generation": generation,
    "input": drawing,
}


def main(folder: str) -> None:
    """Serves passes over the work in `folder`."""
    process.configure_jax()
    work = Work.load(Path(folder))
    SERVE[work.kind](work, set_up(work.config))


if __name__ == "__main__":
    main(*sys.argv[1:])
