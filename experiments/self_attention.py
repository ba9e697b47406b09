"""Stage 2 on a CPU: one causal head over 32 characters.

One weighted average over the past adds little to the last few characters: a context of 64, twice
the batch size and other learning rates from 3e-3 to 1e-2 all end within 0.01 of each other. So the
stage stays small, and trains for five seconds.
"""

from experiments import comparison, default, made_texts, without


def get_config(preset: str = ""):
    """Returns the config of stage 2."""
    config = default.get_config()
    config.tracking.stage = 2
    config.tracking.notes = "positions and one causal head: a token looks back at the text"
    config.model.name = "self_attention"
    config.model.context_length = 32
    config.model.embed_dim = 128
    config.optimizer.learning_rate = 6e-3
    config.train.batch_size = 32
    config.train.num_steps = 2500
    config.eval.every_steps = 500
    config.sample.every_steps = 500
    return default.with_preset(config, preset, PRESETS, comparison, without, made_texts)


PRESETS = {
    "smoke": {**default.SMOKE, "model.context_length": 16, "model.embed_dim": 16},
}
