"""Stage 1 on a CPU: a table of 65 x 65 logits, trained to the loss of bigram counts.

Counts of character pairs in the training split have a validation loss of 2.48, the minimum for this
model. Large batches (8,192 characters) reduce the gradient noise in the rare rows of the table. A
longer run overfits: after 5,000 steps the validation loss has risen by 0.01.
"""

from experiments import default, made_texts
from experiments.default import Preset


def get_config(preset: str = ""):
    """Returns the config of stage 1."""
    config = default.get_config()
    config.tracking.stage = 1
    config.tracking.notes = "a V x V table: the next token from the current one alone"
    config.model.name = "bigram"
    config.model.context_length = 32  # The model reads one token: only the batch has this shape.
    config.optimizer.learning_rate = 0.02  # High: one table, with no layers, stays stable.
    config.train.batch_size = 256
    config.train.num_steps = 1500
    config.eval.every_steps = 500
    config.sample.every_steps = 500
    return default.with_preset(config, preset, PRESETS, made_texts)


def _tokens(millions: float) -> Preset:
    """Returns a run on so many tokens: for few, smaller batches at a higher learning rate."""
    return {
        "train.batch_size": 16,
        "optimizer.learning_rate": 0.03,
        "optimizer.schedule": "linear",
        "train.num_steps": round(1e6 * millions / (16 * 32)),
        "eval.every_steps": 0,
        "sample.every_steps": 0,
    }


PRESETS: dict[str, Preset] = {
    "smoke": default.SMOKE,
    **{f"tokens-{millions}M": _tokens(millions) for millions in (0.25, 0.5, 1, 2, 4)},
}
