"""Stage 3 on a CPU: sixteen heads share the width that one had."""

from experiments import default


def get_config(preset: str = ""):
    config = default.get_config()
    config.tracking.stage = 3
    config.tracking.notes = "heads in parallel, each with its own view, and a projection of them"
    config.model.name = "multi_head_attention"
    config.model.context_length = 64
    config.model.embed_dim = 256
    config.model.num_heads = 16
    config.optimizer.learning_rate = 3e-3
    config.train.batch_size = 16
    config.train.num_steps = 2000
    smoke = {
        **default.SMOKE,
        "model.context_length": 16,
        "model.embed_dim": 16,
        "model.num_heads": 4,
    }
    return default.with_preset(config, preset, {"smoke": smoke})
