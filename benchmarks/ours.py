"""A worker that does a work as the harness does it: `python -m benchmarks.ours FOLDER`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import devices
import runtime
import train_step
from benchmarks.rounds import Work, serve
from evaluate import evaluate
from generate import generate
from input_pipeline import batches
from parts import Parts, build_parts


def training(work: Work, parts: Parts) -> None:
    """Passes of one dispatch of K updates."""
    config, batches_KBT = work.config, work.arrays["batches_KBT"]
    state = train_step.create_state(parts.model, parts.tx, config.seed, parts.mesh)
    flops = train_step.flops_per_step(state, batches_KBT.shape[1:])
    update = devices.replicate(train_step.no_update(), parts.mesh)
    K = len(batches_KBT)
    batches_KBT = devices.split_batches(batches_KBT, parts.mesh)
    constants = np.uint32(config.seed), config.train.max_skipped_updates

    def run(passes: int) -> float:
        nonlocal state, update
        for _ in range(passes):
            with jax.default_matmul_precision(parts.precision):
                state, update = train_step.train_steps(state, update, batches_KBT, 0, K, *constants)
        return float(update["train/loss"])  # Waits for the device.

    serve(run, precision=parts.precision, flops=flops)


def evaluation(work: Work, parts: Parts) -> None:
    """Passes over the validation split; the result is the mean of nats per token."""
    params, data = fresh_params(work, parts), parts.data

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


def generation(work: Work, parts: Parts) -> None:
    """Passes that write all of the texts; the result is the last token."""
    params, prompts_BT = fresh_params(work, parts), work.arrays["prompts_BT"]

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


def drawing(work: Work, parts: Parts) -> None:
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


def fresh_params(work: Work, parts: Parts) -> Any:
    """Parameters without the optimizer's state, on every device."""
    init = jax.jit(parts.model.init)
    params = init(jax.random.key(work.config.seed), jnp.zeros((1, 1), jnp.int32))["params"]
    return devices.replicate(params, parts.mesh)


SERVE: dict[str, Callable[[Work, Parts], None]] = {
    "training": training,
    "evaluation": evaluation,
    "generation": generation,
    "input": drawing,
}


def main(folder: str) -> None:
    """Serves passes over the work in `folder`."""
    runtime.configure_jax()
    work = Work.load(Path(folder))
    SERVE[work.kind](work, build_parts(work.config))


if __name__ == "__main__":
    main(*sys.argv[1:])
