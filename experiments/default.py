"""Every config key of the harness, with its neutral value. Experiments state only differences."""

from collections.abc import Callable

from ml_collections import ConfigDict

from runtime.errors import UserError

# What `:smoke` changes in every experiment: a few seconds of work on the real data set.
SMOKE = {
    "train.batch_size": 4,
    "train.num_steps": 20,
    "train.log_every_steps": 5,
    "train.steps_per_dispatch": 5,
    "eval.every_steps": 10,
    "sample.every_steps": 10,
    "sample.num_tokens": 40,
    "optimizer.warmup_steps": 5,
}


def equal_flops(num_steps: int) -> dict:
    """The preset `:equal_flops`: as many updates as 1e12 FLOPs allow the stage, and all that
    belongs to a run of that length. A test counts the FLOPs.
    """
    return {
        "train.num_steps": num_steps,
        "optimizer.warmup_steps": num_steps // 10,
        "train.log_every_steps": num_steps // 50,
        "eval.every_steps": num_steps // 10,
        "sample.every_steps": num_steps // 2,
    }


def get_config() -> ConfigDict:
    """The config that every experiment starts from. Counts of 0 mean: this stage has none."""
    config = ConfigDict()
    config.seed = 0  # Draws the initial parameters, the batches, dropout and the samples.

    config.data = ConfigDict()
    config.data.name = "tiny_shakespeare"  # Or "text" (see path), or "tfds:<name>" (prepared).
    config.data.path = ""  # A UTF-8 file or a folder of .txt files; for "text", or a local copy.
    # Or "gpt2", the byte-pair encoding GPT-2 was trained with; "bpe:1024" learns one of so many
    # tokens from the training split; "byte" has none but the 256 bytes.
    config.data.tokenizer = "char"

    config.model = ConfigDict()
    config.model.name = "bigram"  # Which stage: see models/__init__.py.
    config.model.context_length = 8  # Tokens a training window holds, and the most a model sees.
    config.model.embed_dim = 0  # Width of the residual stream, D.
    config.model.num_heads = 0  # Attention heads a block, H; divides embed_dim.
    config.model.num_layers = 0  # Blocks.
    config.model.dropout_rate = 0.0  # Share of activations dropped in training.
    # What follows belongs to stage 5 alone; so far it is GPT-2 as it was published.
    config.model.init_from = ""  # Folder or hub name of GPT-2 weights to begin with.
    # Share of attention's weights dropped; -1: dropout_rate. A GPU's fused kernel drops none.
    config.model.attention_dropout_rate = -1.0
    config.model.mlp_dim = 0  # Width of the MLP, F; 0 is 4 D, and 8/3 D for swiglu.
    config.model.positions = "learned"  # Or "rotary", "alibi", "none".
    config.model.norm = "layer_norm"  # Or "rms_norm", "rms_norm_unscaled".
    config.model.norm_epsilon = 1e-5  # Added to the variance that a norm divides by.
    config.model.activation = "gelu"  # Or "gelu_exact", "relu", "relu_squared", "silu", "swiglu".
    config.model.use_bias = True  # In every Dense and LayerNorm.
    config.model.query_key_norm = False  # A norm on each head's queries and keys.
    config.model.num_kv_heads = 0  # Heads of keys and values, shared by queries; 0: num_heads.
    config.model.logit_soft_cap = 0.0  # Bound on the size of logits; 0 is none.
    config.model.tied_embeddings = True  # One matrix for tokens in and out.
    config.model.zero_init = False  # What writes to the residual stream starts at 0.
    config.model.num_pair_embeddings = 0  # Rows for a token and the one before it; 0: none.
    config.model.mup_base_dim = 0  # Width that learning_rate was found at, to transfer it; 0: off.

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # Or "muon", "lion", "adafactor", "sgd".
    config.optimizer.learning_rate = 1e-3  # At its peak, where warm-up ends and decay starts.
    config.optimizer.adam_learning_rate = 0.0  # muon's, of all but the blocks' matrices; 0: same.
    config.optimizer.final_learning_rate = 0.0  # At the last step, after the decay.
    config.optimizer.warmup_steps = 100  # Steps of linear rise from 0.
    config.optimizer.schedule = "cosine"  # Or "linear", or "wsd": stable until it decays.
    config.optimizer.decay_share = 0.2  # Of the steps after warm-up: the last, in which wsd decays.
    config.optimizer.momentum = 0.95  # Decay of the gradient's running mean in muon and sgd.
    config.optimizer.b1 = 0.9  # The same in adamw and lion.
    config.optimizer.b2 = 0.99  # Decay of its running square; 0.999 remembers too long here.
    config.optimizer.weight_decay = 0.1  # On matrices only: not biases, norms or embeddings.
    config.optimizer.grad_clip_norm = 1.0  # Longest gradient let through; 0 lets all through.

    config.train = ConfigDict()
    config.train.batch_size = 32  # Sequences an update, all devices together.
    config.train.grad_accumulation_steps = 1  # Parts a batch is read in, where memory is short.
    config.train.num_steps = 1000  # Updates.
    config.train.log_every_steps = 50  # Between two lines of train/ metrics.
    config.train.steps_per_dispatch = 20  # Updates the device does between two looks by the host.
    config.train.precision = "float32"  # Or "bfloat16": of the factors of products, if it is fast.
    config.train.z_loss = 0.0  # Weight of the squared log of the softmax's sum in the objective.
    config.train.loss_chunks = 1  # Parts of the context whose logits are in memory at a time.
    config.train.remat = "none"  # Or "blocks": recomputes activations, for less memory.
    config.train.max_skipped_updates = 0  # Left out for not being finite before the run stops.

    config.eval = ConfigDict()
    config.eval.every_steps = 250  # Between two passes over the whole validation split.
    config.eval.batch_size = 32  # Windows at a time; changes speed and memory, not the result.

    config.sample = ConfigDict()
    config.sample.every_steps = 250  # Between two generated texts.
    config.sample.prompt = "\n"  # What they continue.
    config.sample.num_tokens = 200  # How far.
    config.sample.temperature = 0.8  # Below 1 prefers likely tokens; 0 takes the likeliest.
    config.sample.top_k = 0  # Draws from the k likeliest tokens; 0 from all.
    config.sample.top_p = 1.0  # Draws from the likeliest that hold this share of probability.

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # Between two saves, besides the one at each evaluation.
    config.checkpoint.every_minutes = 10.0  # And at least so often; 0 leaves it to the steps.
    config.checkpoint.keep = 2  # Newest checkpoints kept; the best by validation loss always is.
    config.checkpoint.resume = False  # Go on from the newest checkpoint in the workdir.

    config.tracking = ConfigDict()
    config.tracking.wandb_mode = "offline"  # Or "online", or "disabled". WANDB_MODE wins over it.
    config.tracking.wandb_project = "transformers-from-scratch"
    config.tracking.wandb_entity = ""  # Whose project; "" is the account's own.
    config.tracking.name = ""  # Of the run; "" takes the workdir's last part.
    config.tracking.group = ""  # Runs to average in the dashboard; "" takes the model's name.
    config.tracking.job_type = "train"
    config.tracking.tags = ()
    config.tracking.stage = 0  # Where comparisons list the run: its rung of the ladder.
    config.tracking.notes = ""  # What this experiment adds to the one before it.
    return config.lock()


def with_preset(
    config: ConfigDict,
    preset: str,
    presets: dict[str, dict],
    family: Callable[[str, ConfigDict], dict[str, dict]] = lambda name, config: {},
    family_names: tuple[str, ...] = (),
) -> ConfigDict:
    """`config` with the dotted keys of the presets that `preset` names, one or more with "+"
    between them, in turn; the empty preset changes nothing.

    `family` has those whose names hold a number or a word, and `family_names` says how they are
    spelled: see experiments/sizes.py. Raises UserError for an unknown name.
    """
    for name in preset.split("+") if preset else ():
        choices = {**presets, **family(name, config)}
        if name not in choices:
            names = ", ".join(f":{name}" for name in (*presets, *family_names))
            raise UserError(f"unknown preset {name!r}: this experiment has {names}, or none at all")
        config.update_from_flattened_dict(choices[name])
    return config
