"""Every config key of the harness, with its neutral value. Experiments state only differences."""

from pathlib import PurePath
from typing import Any, Protocol

from ml_collections import ConfigDict

from runtime.errors import UserError

# The stages' experiments, in the order in which each adds an idea to the one before.
LADDER = ("bigram", "self_attention", "multi_head_attention", "transformer_decoder", "gpt2")

# Dotted config keys and their values.
Preset = dict[str, Any]

# `:smoke` in every experiment: a few seconds of training on the real data set.
SMOKE: Preset = {
    "train.batch_size": 4,
    "train.num_steps": 20,
    "train.flops": 0.0,
    "train.log_every_steps": 5,
    "train.steps_per_dispatch": 5,
    "eval.every_steps": 10,
    "sample.every_steps": 10,
    "sample.num_tokens": 40,
    "optimizer.warmup_steps": 5,
}


def name_of(experiment: str) -> str:
    """Returns experiments/gpt2.py:smoke, the value of --config, as gpt2:smoke."""
    path, colon, preset = experiment.partition(":")
    return PurePath(path).stem + colon * bool(preset) + preset


def of_length(num_steps: int, num_evals: int) -> Preset:
    """Returns a run's length, and the warm-up and intervals that fit it."""
    return {
        "train.num_steps": num_steps,
        "train.flops": 0.0,
        "train.log_every_steps": max(1, num_steps // 50),
        "optimizer.warmup_steps": num_steps // 10,
        "eval.every_steps": max(1, num_steps // num_evals),
        "sample.every_steps": max(1, num_steps // 2),
    }


def get_config() -> ConfigDict:
    """Returns the config that every experiment starts from. A size of 0: this stage has none."""
    config = ConfigDict()
    config.seed = 0  # Seeds the initial parameters, the batches, dropout and the samples.

    config.data = ConfigDict()
    # Or "text" (your own, from data.path), "shards" (a corpus larger than memory, prepared by
    # prepare.py in data.path), "tfds:<name>" (a prepared TFDS data set), or "made:<name>" (drawn,
    # to need one idea: experiments/made_texts.py has the names).
    config.data.name = "tiny_shakespeare"
    # For "text": a UTF-8 file, a folder of .txt files, a glob, or several of them with commas
    # between. For Tiny Shakespeare: a local copy.
    config.data.path = ""
    # For "shards", if data.path names several folders with commas between: how many rows are from
    # each, as "3,1"; "": in proportion to their tokens.
    config.data.weights = ""
    # For "shards": a window goes across the ends of documents. Or false: it holds (a part of) one
    # document and is padded, and nothing of another document is in its context.
    config.data.pack = True
    config.data.val_path = ""  # For "text": files of the validation split; "": its last 10 %.
    config.data.field = ""  # For "text": the field of .jsonl and .parquet records to read.
    # For "text": the field of prompts, if data.field has the answers. A window is then one pair.
    # Only the answer counts in a loss, and the end after it: data.document_separator, or else
    # <|endoftext|> if it is a token.
    config.data.prompt_field = ""
    # One token per character. Or "gpt2" (GPT-2's byte-pair encoding), "bpe:1024" (one of 1,024
    # tokens, learned from the training split), "byte" (the 256 bytes), "folder:PATH" (the
    # tokenizer.json there). Pretrained weights bring their own.
    config.data.tokenizer = "char"
    # Text between documents (files, records, examples of a TFDS data set); "": a line end.
    # "<|endoftext|>" is one token for "gpt2" and "bpe:1024", and generate.py --stop ends a text
    # at it.
    config.data.document_separator = ""

    config.model = ConfigDict()
    config.model.name = "bigram"  # The stage: see models/__init__.py.
    config.model.context_length = 8  # Tokens per training window, and the most a model attends to.
    config.model.embed_dim = 0  # Width of the residual stream, D.
    config.model.num_heads = 0  # Attention heads per block, H; divides embed_dim.
    config.model.num_layers = 0  # Transformer blocks.
    config.model.dropout_rate = 0.0  # Fraction of activations that training sets to 0.
    # Idea to leave out, to measure what it gains: "scale", "mask", "positions", "projection",
    # "residual", "layer_norm", "mlp", "initialization"; "": none.
    config.model.without = ""

    # Rows of the vocabulary's matrices; 0: as many as there are tokens. mesh.tensor can divide
    # 50304, but not GPT-2's 50257. The rows beyond have probability 0.
    config.model.pad_vocab_to = 0

    # Keys of stage 5 alone. Their defaults are GPT-2 as published (Radford et al., 2019).
    config.model.init_from = ""  # Folder or Hugging Face name of GPT-2 weights to start from.
    # Dropout on attention weights; -1: dropout_rate. A GPU's fused attention kernel needs 0.
    config.model.attention_dropout_rate = -1.0
    config.model.mlp_dim = 0  # Width of the MLP, F; 0: 4 D, or 8/3 D for swiglu.
    config.model.positions = "learned"  # Position encoding. Or "rotary" (RoPE), "alibi", "none".
    config.model.norm = "layer_norm"  # Or "rms_norm", "rms_norm_unscaled" (no learned scale).
    config.model.norm_epsilon = 1e-5  # Added to the variance in a norm, against division by 0.
    # GELU's tanh approximation. Or "gelu_exact", "relu", "relu_squared", "silu", "swiglu" (gated).
    config.model.activation = "gelu"
    config.model.use_bias = True  # Biases in dense layers and LayerNorm.
    config.model.query_key_norm = False  # Normalizes each head's queries and keys (QK-norm).
    config.model.num_kv_heads = 0  # Key/value heads, for grouped-query attention; 0: num_heads.
    config.model.logit_soft_cap = 0.0  # Bounds logits smoothly, by tanh, to +-this; 0: off.
    config.model.tied_embeddings = True  # The output head reuses the token embedding matrix.
    config.model.zero_init = False  # Zero-initializes the output projections of sub-layers.
    config.model.num_pair_embeddings = 0  # Rows of a table for (previous, current) pairs; 0: off.
    config.model.mup_base_dim = 0  # muP: embed_dim at which learning_rate was tuned; 0: off.

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # Or "muon", "lion", "adafactor", "sgd" (Nesterov).
    config.optimizer.learning_rate = 1e-3  # The peak, after warm-up.
    # muon: peak for the parameters that Adam updates, all but hidden matrices; 0: learning_rate.
    config.optimizer.adam_learning_rate = 0.0
    config.optimizer.final_learning_rate = 0.0  # Reached at the last step.
    config.optimizer.warmup_steps = 100  # Steps of linear warm-up from 0.
    # Decay after warm-up. Or "linear", or "wsd" (warm-up, stable, decay; Hu et al., 2024).
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_share = 0.2  # wsd: decaying fraction of the steps after warm-up.
    config.optimizer.momentum = 0.95  # muon, sgd: decay rate of the momentum.
    config.optimizer.b1 = 0.9  # Adam: decay rate of the first moment; lion: weight of momentum.
    config.optimizer.b2 = 0.99  # Adam: of the second moment, 0.999 is too slow; lion: of momentum.
    config.optimizer.weight_decay = 0.1  # On matrices, not on biases, norms or embeddings.
    config.optimizer.grad_clip_norm = 1.0  # Global-norm gradient clipping; 0: off.

    config.train = ConfigDict()
    config.train.batch_size = 32  # Sequences per update, over all devices.
    config.train.grad_accumulation_steps = 1  # Micro-batches per update; more need less memory.
    config.train.num_steps = 1000  # Updates.
    # A budget in floating-point operations, as XLA counts them, which sets num_steps; 0: off.
    config.train.flops = 0.0
    config.train.log_every_steps = 50  # Steps between lines of train/ metrics.
    # Steps between lines that have the norms of each layer's gradient and parameters; 0: none.
    config.train.log_norms_every_steps = 0
    # Measures the peak of a device whose peak is not published, once on a machine (0.3 s; best with
    # nothing else running), and logs the share of it that training reaches.
    config.train.measure_peak = False
    config.train.steps_per_dispatch = 20  # Updates per device call; more cost the host less time.
    # Or "bfloat16": rounds the inputs of matrix products, where the hardware gains speed by it.
    config.train.precision = "float32"
    config.train.z_loss = 0.0  # Weight of the squared log of the softmax denominator; 0: off.
    config.train.loss_chunks = 1  # Chunks of the context; only one has its logits in memory.
    # Or "blocks": recomputes activations in the backward pass, for less memory.
    config.train.remat = "none"
    config.train.max_skipped_updates = 0  # Updates to skip as not finite before stopping.

    # Devices on each axis of the mesh; -1 on one of them: all that the others leave.
    config.mesh = ConfigDict()
    config.mesh.data = -1  # Each has its part of a batch, and the whole model.
    config.mesh.fsdp = (
        1  # Each has its part of a batch, and of every matrix and its optimizer state.
    )
    config.mesh.tensor = 1  # Each computes its part of every layer.

    config.eval = ConfigDict()
    # Steps between evaluations on the whole validation split; 0: first and last step only.
    config.eval.every_steps = 250
    # Ends a run after as many evaluations whose loss did not improve by eval.min_delta; 0: off.
    config.eval.patience = 0
    config.eval.min_delta = 0.0  # Least improvement of val/loss that counts for eval.patience.
    config.eval.milestones = False  # Also evaluates after 1, 2, 5, 10, 20 and 50 % of the steps.
    # Tokens of the validation split that evaluations in a training predict, its first ones; 0: all.
    config.eval.max_tokens = 0
    config.eval.batch_size = 32  # Windows per batch; affects speed and memory, not the result.

    config.sample = ConfigDict()
    config.sample.every_steps = 250  # Steps between samples; 0: first and last step only.
    config.sample.milestones = False  # Also samples after 1, 2, 5, 10, 20 and 50 % of the steps.
    # The text that a sample continues; of a text without line ends another character, of pairs the
    # first prompt of the validation split.
    config.sample.prompt = "\n"
    config.sample.num_tokens = 200  # Tokens to generate; 0: no samples.
    config.sample.temperature = 0.8  # Below 1 prefers likely tokens; below 1e-5: greedy.
    config.sample.top_k = 0  # Samples from the k most likely tokens; 0: all.
    config.sample.top_p = 1.0  # Nucleus sampling: the most likely tokens of this total probability.

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # Steps between checkpoints, besides one per evaluation.
    config.checkpoint.every_minutes = 10.0  # Longest time between checkpoints; 0: off.
    config.checkpoint.keep = 2  # Newest checkpoints to keep, besides the best by val/loss.
    # Steps, spaced by ratio, at which the parameters alone are kept, to see how a model came about.
    config.checkpoint.snapshots = 0
    config.checkpoint.resume = False  # Continues from the newest checkpoint in the workdir.

    config.tracking = ConfigDict()
    # Mirrors of the record: "wandb", "tensorboard", both joined by a comma, or none.
    config.tracking.sinks = ("wandb",)
    # Or "online", "disabled". Where no flag sets it, the environment variable WANDB_MODE does.
    # WANDB_PROJECT and others likewise stand for keys below: docs/how_to/dashboard.md.
    config.tracking.wandb_mode = "offline"
    # W&B project of the run, and its owner; "": your default.
    config.tracking.wandb_project = "transformers-from-scratch"
    config.tracking.wandb_entity = ""
    config.tracking.name = ""  # Display name of the run; "": name of the workdir.
    config.tracking.experiment = ""  # Experiment and presets, gpt2:smoke; main.py fills it in.
    config.tracking.group = ""  # Runs that the dashboard averages; "": the experiment.
    config.tracking.job_type = ""  # W&B's label for the kind of run; "": "train", or "sweep".
    # W&B tags of the run, with commas between, besides the experiment and each preset.
    config.tracking.tags = ()
    config.tracking.stage = 0  # Sorts the run in comparisons: 1 to 5.
    # Checkpoint to log as a W&B artifact at the end: "final" (the newest) or "best" (by val/loss).
    config.tracking.log_model = "none"
    config.tracking.notes = ""  # The idea that this experiment adds.
    return config.lock()


class Families(Protocol):
    """A module of presets whose names contain a number or a word, such as experiments/sizes.py."""

    FAMILIES: dict[str, str]  # What each is, by its spelling in messages.

    def family(self, preset: str, config: ConfigDict) -> dict[str, Preset]:
        """Returns {preset: its changes to `config`}; {} if it belongs to none of the families."""


def with_preset(
    config: ConfigDict, preset: str, presets: dict[str, Preset], *families: Families
) -> ConfigDict:
    """Returns `config` changed by the presets in `preset`: none, or several joined by "+".

    Raises UserError for an unknown name.
    """
    for name in preset.split("+") if preset else ():
        choices = dict(presets)
        for module in families:
            choices |= module.family(name, config)
        if name not in choices:
            family_names = (spelling for module in families for spelling in module.FAMILIES)
            names = ", ".join(f":{name}" for name in (*presets, *family_names))
            raise UserError(f"unknown preset {name!r}: expected one of {names}, or none")
        config.update_from_flattened_dict(choices[name])
    return config
