"""Stage 5: GPT-2, by default at a size that a CPU trains in a minute; `:small` is the real one.

What has been changed in GPT-2 since is a preset each, and presets can be joined: `:rotary+swiglu`.

The default has stage 4's depth and width and twice its steps: at a learning rate of 6e-3 a fourth
block took a third more time a step and ended where three did (1.624 and 1.623 after 5,500 steps).
Dropout is there and off: a minute is five passes over the text, too few for a model this small to
learn it by heart. The larger presets, which can, drop.
"""

from experiments import default, sizes

# Table 2 of Radford et al. (2019); the head counts are those of the released weights.
PUBLISHED_SIZES = {
    "small": {"num_layers": 12, "num_heads": 12, "embed_dim": 768},
    "medium": {"num_layers": 24, "num_heads": 16, "embed_dim": 1024},
    "large": {"num_layers": 36, "num_heads": 20, "embed_dim": 1280},
    "xl": {"num_layers": 48, "num_heads": 25, "embed_dim": 1600},
}


def get_config(preset: str = ""):
    config = default.get_config()
    config.tracking.stage = 5
    config.tracking.notes = "GPT-2's choices: GELU, its initialisation, tied embeddings, dropout"
    config.model.name = "gpt2"
    config.model.context_length = 64
    config.model.embed_dim = 128
    config.model.num_heads = 4
    config.model.num_layers = 3
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_steps = 300  # Small initial weights, a high peak: 100 end 0.01 worse.
    config.train.batch_size = 12
    config.train.num_steps = 6500
    config.train.precision = "bfloat16"
    config.eval.every_steps = 1000
    config.sample.every_steps = 1000
    return default.with_preset(config, preset, PRESETS, sizes.family, sizes.FAMILY_NAMES)


# One change each to GPT-2 as it was published, in its architecture, its objective or its
# optimizer: what sweeps/architecture.yaml compares. The optimizers' learning rates end within a
# seed's luck of the best of three to five at its length (docs/log.md).
CHANGES = {
    "rotary": {"model.positions": "rotary"},
    "alibi": {"model.positions": "alibi"},
    "no_positions": {"model.positions": "none"},
    "pair_embeddings": {"model.num_pair_embeddings": 65**2},  # Every pair of the characters.
    "rms_norm": {"model.norm": "rms_norm"},
    "relu_squared": {"model.activation": "relu_squared"},
    "swiglu": {"model.activation": "swiglu"},
    "query_key_norm": {"model.query_key_norm": True},
    "grouped_queries": {"model.num_kv_heads": 1},
    "no_biases": {"model.use_bias": False},
    "zero_init": {"model.zero_init": True},
    "soft_cap": {"model.logit_soft_cap": 15.0},
    "untied": {"model.tied_embeddings": False},
    "z_loss": {"train.z_loss": 1e-4},
    "linear": {"optimizer.schedule": "linear"},
    "wsd": {"optimizer.schedule": "wsd"},
    "muon": {
        "optimizer.name": "muon",
        "optimizer.learning_rate": 0.02,
        "optimizer.adam_learning_rate": 0.02,
    },
    "lion": {"optimizer.name": "lion", "optimizer.learning_rate": 1e-3},
    "adafactor": {"optimizer.name": "adafactor", "optimizer.learning_rate": 0.08},
    "sgd": {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1},
}

# What the speedruns have alike: see docs/speedrun.md.
SPEEDRUN = {
    "model.positions": "rotary",
    "model.norm": "rms_norm_unscaled",
    "model.query_key_norm": True,
    "model.activation": "relu_squared",
    "model.use_bias": False,
    "model.zero_init": True,
    **CHANGES["pair_embeddings"],
    "optimizer.name": "muon",
    "optimizer.learning_rate": 0.03,
    "optimizer.adam_learning_rate": 0.02,
    "optimizer.schedule": "linear",
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0.0,
    "optimizer.grad_clip_norm": 0.0,
    "eval.every_steps": 0,
    "sample.every_steps": 0,
}
# Of those that read the text more than once: the rates fall with the number of updates, or the
# tables learn the text by heart.
LONGER_SPEEDRUN = {
    **SPEEDRUN,
    "model.context_length": 256,
    "model.tied_embeddings": False,
    **CHANGES["soft_cap"],
    "optimizer.learning_rate": 0.008,
    "optimizer.adam_learning_rate": 0.0015,
    "optimizer.weight_decay": 0.2,
    "train.batch_size": 8,
}
TWO_BLOCKS = {"model.num_layers": 2, "model.embed_dim": 128, "model.num_heads": 2}

PRESETS = {
    **CHANGES,
    # Below nanoGPT's 1.886 in less than a twentieth of the time that its recipe takes PyTorch.
    "speedrun_5s": {
        **SPEEDRUN,
        "model.num_layers": 1,
        "model.embed_dim": 96,
        "model.num_heads": 3,
        "train.batch_size": 16,
        "train.num_steps": 260,
    },
    "speedrun_30s": {
        **LONGER_SPEEDRUN,
        **TWO_BLOCKS,
        "optimizer.learning_rate": 0.016,
        "optimizer.adam_learning_rate": 0.005,
        "train.num_steps": 570,
    },
    "speedrun": {  # Of a minute.
        **LONGER_SPEEDRUN,
        **TWO_BLOCKS,
        "optimizer.momentum": 0.9,
        "train.batch_size": 7,
        "train.num_steps": 1500,
    },
    "speedrun_180s": {
        **LONGER_SPEEDRUN,
        "model.num_layers": 3,
        "model.embed_dim": 192,
        "model.num_heads": 3,
        "train.num_steps": 1230,
    },
    # The lowest loss found: below nanoGPT's for its ten million parameters, with a quarter of them.
    "baby_best": {
        **LONGER_SPEEDRUN,
        "model.num_layers": 4,
        "model.embed_dim": 192,
        "model.num_heads": 3,
        "model.dropout_rate": 0.1,
        "train.num_steps": 2800,
    },
    "smoke": {
        **default.SMOKE,
        "model.context_length": 16,
        "model.embed_dim": 16,
        "model.num_heads": 2,
        "model.num_layers": 2,
        "model.dropout_rate": 0.1,
    },
    "equal_flops": default.equal_flops(329),
    # nanoGPT's command for a laptop: one block more than ours, and a lower learning rate.
    "laptop": {
        "model.num_layers": 4,
        "optimizer.learning_rate": 1e-3,
        "optimizer.final_learning_rate": 1e-4,
        "optimizer.warmup_steps": 100,
        "train.num_steps": 2000,
    },
    # For --config.model.init_from: small steps from what is known already. GPT-2's own weights need
    # --config.data.tokenizer=gpt2.
    "finetune": {
        "model.dropout_rate": 0.1,
        "optimizer.learning_rate": 1e-4,
        "optimizer.warmup_steps": 20,
        "train.num_steps": 400,
        "train.batch_size": 8,
        "eval.every_steps": 100,
        "sample.every_steps": 200,
    },
    # nanoGPT's config for this text on a GPU: 10.65 million parameters.
    "baby": {
        "model.context_length": 256,
        "model.embed_dim": 384,
        "model.num_heads": 6,
        "model.num_layers": 6,
        "model.dropout_rate": 0.2,
        "model.attention_dropout_rate": 0.0,  # A GPU's fused attention has none.
        "optimizer.learning_rate": 1e-3,
        "optimizer.final_learning_rate": 1e-4,
        "train.batch_size": 64,
        "train.num_steps": 5000,
        "train.steps_per_dispatch": 4,  # A CPU takes seconds for one: a request to stop waits.
    },
    # The published sizes, with the vocabulary they were published with.
    **{
        size: {
            **{f"model.{key}": value for key, value in shape.items()},
            "model.context_length": 1024,
            "model.dropout_rate": 0.1,
            "model.attention_dropout_rate": 0.0,  # As `:baby`.
            "data.tokenizer": "gpt2",
            "optimizer.learning_rate": 6e-4,
            "optimizer.b2": 0.95,
            "train.batch_size": 8,
            "train.steps_per_dispatch": 1,
            "eval.batch_size": 4,  # Logits of a window are 200 MB.
        }
        for size, shape in PUBLISHED_SIZES.items()
    },
}
