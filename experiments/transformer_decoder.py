"""Stage 4 on a CPU: three blocks deep."""

from experiments import default


def get_config(preset: str = ""):
    config = default.get_config()
    config.tracking.stage = 4
    config.tracking.notes = "MLP, residual stream, LayerNorm: blocks that can be stacked"
    config.model.name = "transformer_decoder"
    config.model.context_length = 64
    config.model.embed_dim = 128
    config.model.num_heads = 4
    config.model.num_layers = 3
    config.optimizer.learning_rate = 3e-3
    config.train.batch_size = 16
    config.train.num_steps = 1500
    smoke = {
        **default.SMOKE,
        "model.context_length": 16,
        "model.embed_dim": 16,
        "model.num_heads": 2,
        "model.num_layers": 2,
    }
    return default.with_preset(config, preset, {"smoke": smoke})
