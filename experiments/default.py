"""Every config key of the harness, with its neutral value. Experiments state only differences."""

from ml_collections import ConfigDict

from errors import UserError

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
    config.data.tokenizer = "char"  # Or "gpt2": the byte-pair encoding GPT-2 was trained with.

    config.model = ConfigDict()
    config.model.name = "bigram"  # Which stage: see models/__init__.py.
    config.model.context_length = 8  # Tokens a training window holds, and the most a model sees.
    config.model.embed_dim = 0  # Width of the residual stream, D.
    config.model.num_heads = 0  # Attention heads a block, H; divides embed_dim.
    config.model.num_layers = 0  # Blocks.
    config.model.dropout_rate = 0.0  # Share of activations dropped in training.

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # The only one so far.
    config.optimizer.learning_rate = 1e-3  # At its peak, where warm-up ends and decay starts.
    config.optimizer.final_learning_rate = 0.0  # At the last step, after cosine decay.
    config.optimizer.warmup_steps = 100  # Steps of linear rise from 0.
    config.optimizer.b1 = 0.9  # Decay of the gradient's running mean.
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


def with_preset(config: ConfigDict, preset: str, presets: dict[str, dict]) -> ConfigDict:
    """`config` with the dotted keys of `presets[preset]` set; the empty preset changes nothing.

    Raises UserError for a name that is not in `presets`.
    """
    choices = {"": {}, **presets}
    if preset not in choices:
        names = ", ".join(f":{name}" for name in presets)
        raise UserError(f"unknown preset {preset!r}: this experiment has {names}, or none at all")
    config.update_from_flattened_dict(choices[preset])
    return config
