"""Stage 4 on a CPU: three blocks, 128 wide.

A run of half a minute needs many updates, hence a context of 64 and small batches: after the same
number of tokens, a context of 128 ended 0.15 higher. Two blocks of 192 were no better than three of
128. A learning rate of 1e-2 was too high: 1.93 after 1,500 steps, against 1.76 at 3e-3.
"""

from experiments import comparison, default, made_texts, without


def get_config(preset: str = ""):
    """Returns the config of stage 4."""
    config = default.get_config()
    config.tracking.stage = 4
    config.tracking.notes = "MLP, residual stream, LayerNorm: blocks that can be stacked"
    config.model.name = "transformer_decoder"
    config.model.context_length = 64
    config.model.embed_dim = 128
    config.model.num_heads = 4
    config.model.num_layers = 3
    config.optimizer.learning_rate = 4e-3
    config.train.batch_size = 12
    config.train.num_steps = 3000
    config.train.precision = "bfloat16"
    config.eval.every_steps = 1000
    config.sample.every_steps = 1000
    return default.with_preset(config, preset, PRESETS, comparison, without, made_texts)


PRESETS = {
    "smoke": {
        **default.SMOKE,
        "model.context_length": 16,
        "model.embed_dim": 16,
        "model.num_heads": 2,
        "model.num_layers": 2,
    },
}
