"""Stage 2 on a CPU: one causal head over 32 characters."""

from experiments import default


def get_config(preset: str = ""):
    config = default.get_config()
    config.tracking.stage = 2
    config.tracking.notes = "positions and one causal head: a token looks back at the text"
    config.model.name = "self_attention"
    config.model.context_length = 32
    config.model.embed_dim = 128
    config.optimizer.learning_rate = 3e-3
    config.train.batch_size = 32
    config.train.num_steps = 3000
    smoke = {**default.SMOKE, "model.context_length": 16, "model.embed_dim": 16}
    return default.with_preset(config, preset, {"smoke": smoke})
