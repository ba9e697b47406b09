"""Parameter and FLOP counts of a GPT-2 by formula, and preset families with one free number.

No function here builds a model: a test compares the counts with a built model's, and with XLA's.
"""

import re
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments import default
from experiments.default import Preset
from runtime.errors import UserError

HEAD_DIM = 32
# FLOPs of each `vocabulary-` run: those of the default's first 1,500 updates, roughly.
VOCABULARY_FLOPS = 4.5e12
VOCABULARIES = {
    "char": 65,
    "byte": 256,
    "bpe:512": 512,
    "bpe:1024": 1024,
    "bpe:2048": 2048,
    "bpe:4096": 4096,
    "gpt2": 50_257,
}
# Elementwise operations in a block, forward and backward: per MLP unit, per element of the residual
# stream, per attention score. The last: per logit.
ON_UNIT, ON_STREAM, ON_SCORE, ON_LOGIT = 30, 34, 12, 6
# Muon's suits all rungs (0.02 and 0.04 were tried). Adam's, for embeddings and all else but the
# blocks' matrices, is divided by the rung.
LADDER_LEARNING_RATE, LADDER_ADAM_LEARNING_RATE = 0.03, 0.02
LARGEST_RUNG = 64
BATCH_TOKENS = 1024  # Of each `context-` run.
# Families of presets, by their spelling.
FAMILIES = {
    "ladder-<n>": "n blocks, n heads, 32 n wide, Muon, 20 tokens per parameter",
    "ladder-<n>-<m>M": "the same on m million tokens",
    "width-<n>": "n wide, at the default's depth, with heads of 32",
    "context-<n>": "windows of n tokens, in batches of 1,024 tokens",
    "vocabulary-<tokenizer>": "that tokenizer, for as many updates as the same FLOPs allow",
}


class Parameters(NamedTuple):
    """Number of parameters in the embedding tables (tokens, pairs, positions) and elsewhere."""

    embedding: int
    rest: int

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.embedding + self.rest


def count_parameters(model: ConfigDict, vocab_size: int) -> Parameters:
    """Returns the counts for the GPT-2 in a config's `model`; an untied head is an embedding."""
    D, L = model.embed_dim, model.num_layers
    V = max(vocab_size, model.pad_vocab_to)
    num_rows = V if model.tied_embeddings else 2 * V
    num_rows += model.num_pair_embeddings
    if model.positions == "learned":
        num_rows += model.context_length
    norm = {"layer_norm": 1 + model.use_bias, "rms_norm": 1, "rms_norm_unscaled": 0}[model.norm]
    norms = norm * (2 * D * L + D)
    if model.query_key_norm:
        norms += norm * 2 * L * D // model.num_heads
    biases = 0
    if model.use_bias:
        mlp_matrices, F = _mlp(model)
        biases = 3 * D + 2 * _kv_dim(model) + (mlp_matrices - 1) * F
    return Parameters(num_rows * D, L * (_matrices(model) + biases) + norms)


def flops_per_token(model: ConfigDict, vocab_size: int) -> float:
    """Returns the FLOPs per token of a forward and a backward pass over a whole window.

    A matrix product takes 2 per weight forward and 4 backward; attention includes the masked scores
    (Hoffmann et al., 2022, appendix F). Elementwise operations are XLA's counts on average.
    """
    D, L, T = model.embed_dim, model.num_layers, model.context_length
    V = max(vocab_size, model.pad_vocab_to)
    elementwise = ON_UNIT * _mlp(model)[1] + ON_STREAM * D + ON_SCORE * model.num_heads * T
    scores_and_averages = 2 * T * D
    products = L * (_matrices(model) + scores_and_averages) + D * V
    return 6.0 * products + L * elementwise + ON_LOGIT * V


def _matrices(model: ConfigDict) -> int:
    """Returns the number of weights in the matrices of one block."""
    mlp_matrices, F = _mlp(model)
    return model.embed_dim * (2 * model.embed_dim + 2 * _kv_dim(model) + mlp_matrices * F)


def _kv_dim(model: ConfigDict) -> int:
    return model.embed_dim // model.num_heads * (model.num_kv_heads or model.num_heads)


def _mlp(model: ConfigDict) -> tuple[int, int]:
    """Returns the number of matrices in an MLP, and its width."""
    D = model.embed_dim
    matrices, F = (3, 8 * round(D / 3)) if model.activation == "swiglu" else (2, 4 * D)
    return matrices, model.mlp_dim or F


def family(preset: str, config: ConfigDict) -> dict[str, Preset]:
    """Returns {preset: its changes to `config`} if the name belongs to one of FAMILIES, else {}.

    Raises UserError for a number out of range.
    """
    if found := re.fullmatch(r"ladder-(\d+)(?:-(\d+(?:\.\d+)?)M)?", preset):
        rung, millions = int(found[1]), found[2]
        if not 1 <= rung <= LARGEST_RUNG:
            raise UserError(f"preset {preset!r}: expected ladder-1 to ladder-{LARGEST_RUNG}")
        changes = _rung(rung, 1e6 * float(millions) if millions else None, config)
    elif found := re.fullmatch(r"width-(\d+)", preset):
        width = int(found[1])
        if width < HEAD_DIM or width % HEAD_DIM:
            raise UserError(f"preset {preset!r}: expected a width divisible by {HEAD_DIM}")
        changes = _width(width)
    elif found := re.fullmatch(r"context-(\d+)", preset):
        length = int(found[1])
        if not length or BATCH_TOKENS % length:
            raise UserError(f"preset {preset!r}: expected a divisor of {BATCH_TOKENS}")
        changes = {"model.context_length": length, "train.batch_size": BATCH_TOKENS // length}
    elif preset.startswith("vocabulary-"):
        name = preset.removeprefix("vocabulary-")
        if name not in VOCABULARIES:
            known = ", ".join(VOCABULARIES)
            raise UserError(f"preset {preset!r}: expected vocabulary- and one of {known}")
        changes = _vocabulary(name, config)
    else:
        return {}
    if changes.get("train.num_steps") == 0:
        raise UserError(
            f"preset {preset!r}: its budget is less than one batch; choose a smaller model"
        )
    return {preset: changes}


def _width(width: int) -> Preset:
    return {"model.embed_dim": width, "model.num_heads": width // HEAD_DIM}


def rung_parameters(rung: int, model: ConfigDict) -> Parameters:
    """Returns the counts for a rung of the ladder; `model` has what all rungs share."""
    model = ConfigDict(model.to_dict())
    model.update(num_layers=rung, embed_dim=HEAD_DIM * rung, num_heads=rung)
    return count_parameters(model, VOCABULARIES["char"])


def _rung(rung: int, tokens: float | None, config: ConfigDict) -> Preset:
    """Returns a rung's shape, optimizer and batch size; default: 20 tokens per parameter."""
    if tokens is None:
        tokens = 20 * rung_parameters(rung, config.model).total
    # The critical batch size grows with the number of tokens, hardly with the model: Zhang et al.
    # (2024), "How does critical batch size scale in pre-training?".
    batch_size = 2 * max(2, round(4 * (tokens / 1e6) ** 0.5))
    num_steps = round(tokens / (batch_size * config.model.context_length))
    return {
        "model.num_layers": rung,
        **_width(HEAD_DIM * rung),
        # AdamW needs more updates than a million tokens allow to train the deeper rungs: their loss
        # would measure the optimizer, not the size.
        "optimizer.name": "muon",
        "optimizer.learning_rate": LADDER_LEARNING_RATE,
        "optimizer.adam_learning_rate": LADDER_ADAM_LEARNING_RATE / rung,
        "train.batch_size": batch_size,
        **default.of_length(num_steps, num_evals=4),
    }


def _vocabulary(name: str, config: ConfigDict) -> Preset:
    flops = flops_per_token(config.model, VOCABULARIES[name])
    tokens_per_step = config.train.batch_size * config.model.context_length
    num_steps = round(VOCABULARY_FLOPS / flops / tokens_per_step)
    return {"data.tokenizer": name, **default.of_length(num_steps, num_evals=4)}
