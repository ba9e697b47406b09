"""Stage 5: GPT-2, by default at a size that a CPU trains in a minute; `:small` is the real size.

Each later change to GPT-2 is a preset, and "+" joins presets: `:rotary+swiglu`.

The default has stage 4's depth and width and twice its steps: at a learning rate of 6e-3 a fourth
block took a third more time per step for the same loss (1.624 with four, 1.623 with three, after
5,500 steps). Dropout is off: a minute is five passes over the text, too few for a model this small
to overfit. The larger presets use it.
"""

from experiments import comparison, default, made_texts, sizes, without
from experiments.default import Preset


def _shape(num_layers: int, num_heads: int, embed_dim: int) -> Preset:
    return {
        "model.num_layers": num_layers,
        "model.num_heads": num_heads,
        "model.embed_dim": embed_dim,
    }


# Table 2 of Radford et al. (2019); the head counts are those of the released weights.
PUBLISHED_SIZES = {
    "small": _shape(12, 12, 768),
    "medium": _shape(24, 16, 1024),
    "large": _shape(36, 20, 1280),
    "xl": _shape(48, 25, 1600),
}


def get_config(preset: str = ""):
    """Returns the config of stage 5."""
    config = default.get_config()
    config.tracking.stage = 5
    config.tracking.notes = "GPT-2's choices: GELU, its initialisation, tied embeddings, dropout"
    config.model.name = "gpt2"
    config.model.context_length = 64
    config.model.embed_dim = 128
    config.model.num_heads = 4
    config.model.num_layers = 3
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_steps = 300  # 100 end 0.01 higher at this peak.
    config.train.batch_size = 12
    config.train.num_steps = 6500
    config.train.precision = "bfloat16"
    config.eval.every_steps = 1000
    config.sample.every_steps = 1000
    return default.with_preset(config, preset, PRESETS, sizes, comparison, without, made_texts)


# Each changes one thing in the published GPT-2's architecture, objective or optimizer;
# sweeps/architecture.yaml compares them. For each optimizer three to five learning rates were tried
# at its length, and this one's loss is within seed noise of the best (docs/log.md).
CHANGES: dict[str, Preset] = {
    "rotary": {"model.positions": "rotary"},
    "alibi": {"model.positions": "alibi"},
    "no_positions": {"model.positions": "none"},
    "pair_embeddings": {"model.num_pair_embeddings": 65**2},  # One row per pair of characters.
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

# Shared by all speedruns: see docs/speedrun.md.
SPEEDRUN: Preset = {
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
# Shared by the speedruns that read the text more than once. Their learning rates are lower the more
# updates they make, or the embedding tables overfit.
LONGER_SPEEDRUN: Preset = {
    **SPEEDRUN,
    "model.context_length": 256,
    "model.tied_embeddings": False,
    **CHANGES["soft_cap"],
    "optimizer.learning_rate": 0.008,
    "optimizer.adam_learning_rate": 0.0015,
    "optimizer.weight_decay": 0.2,
    "train.batch_size": 8,
}

PRESETS: dict[str, Preset] = {
    **CHANGES,
    # Below nanoGPT's 1.886, in less than a twentieth of the time that PyTorch takes for its recipe.
    "speedrun_5s": {**SPEEDRUN, **_shape(1, 3, 96), "train.batch_size": 16, "train.num_steps": 260},
    "speedrun_30s": {
        **LONGER_SPEEDRUN,
        **_shape(2, 2, 128),
        "optimizer.learning_rate": 0.016,
        "optimizer.adam_learning_rate": 0.005,
        "train.num_steps": 570,
    },
    "speedrun": {  # One minute.
        **LONGER_SPEEDRUN,
        **_shape(2, 2, 128),
        "optimizer.momentum": 0.9,
        "train.batch_size": 7,
        "train.num_steps": 1500,
    },
    "speedrun_180s": {**LONGER_SPEEDRUN, **_shape(3, 3, 192), "train.num_steps": 1230},
    # The lowest loss found: below that of nanoGPT's ten million parameters, with a quarter of them.
    "baby_best": {
        **LONGER_SPEEDRUN,
        **_shape(4, 3, 192),
        "model.dropout_rate": 0.1,
        "train.num_steps": 2800,
    },
    "smoke": {
        **default.SMOKE,
        **_shape(2, 2, 16),
        "model.context_length": 16,
        "model.dropout_rate": 0.1,
    },
    # nanoGPT's settings for a laptop: one block more than the default, a lower learning rate.
    "laptop": {
        "model.num_layers": 4,
        "optimizer.learning_rate": 1e-3,
        "optimizer.final_learning_rate": 1e-4,
        "optimizer.warmup_steps": 100,
        "train.num_steps": 2000,
    },
    # For --config.model.init_from, with a low learning rate.
    "finetune": {
        "model.dropout_rate": 0.1,
        "optimizer.learning_rate": 1e-4,
        "optimizer.warmup_steps": 20,
        "train.num_steps": 400,
        "train.batch_size": 8,
        "eval.every_steps": 100,
        "sample.every_steps": 200,
    },
    # nanoGPT's settings for Tiny Shakespeare on a GPU: 10.65 million parameters.
    "baby": {
        **_shape(6, 6, 384),
        "model.context_length": 256,
        "model.dropout_rate": 0.2,
        "model.attention_dropout_rate": 0.0,  # A GPU's fused attention needs 0.
        "optimizer.learning_rate": 1e-3,
        "optimizer.final_learning_rate": 1e-4,
        "train.batch_size": 64,
        "train.num_steps": 5000,
        "train.steps_per_dispatch": 4,  # A stop waits for these; a CPU takes seconds for each.
    },
    # The published reproduction of GPT-2 small, nanoGPT's, on a corpus that prepare.py made: half a
    # million tokens an update, 300 billion in all. docs/openwebtext.md has the steps.
    "openwebtext": {
        **PUBLISHED_SIZES["small"],
        "model.context_length": 1024,
        "model.pad_vocab_to": 50304,
        "data.name": "shards",
        "data.tokenizer": "gpt2",
        "optimizer.learning_rate": 6e-4,
        "optimizer.final_learning_rate": 6e-5,
        "optimizer.warmup_steps": 2000,
        "optimizer.b2": 0.95,
        "train.batch_size": 480,
        "train.grad_accumulation_steps": 20,  # 24 windows at once, which 8 GPUs can share.
        "train.num_steps": 600_000,
        "train.log_every_steps": 10,
        "train.steps_per_dispatch": 1,
        "eval.every_steps": 1000,
        "eval.batch_size": 24,
        "sample.every_steps": 1000,
    },
    # The published sizes, with GPT-2's vocabulary.
    **{
        size: {
            **shape,
            "model.context_length": 1024,
            "model.dropout_rate": 0.1,
            "model.attention_dropout_rate": 0.0,  # As in `:baby`.
            "data.tokenizer": "gpt2",
            "optimizer.learning_rate": 6e-4,
            "optimizer.b2": 0.95,
            "train.batch_size": 8,
            "train.steps_per_dispatch": 1,
            "eval.batch_size": 4,  # The logits of one window take 200 MB.
        }
        for size, shape in PUBLISHED_SIZES.items()
    },
}
