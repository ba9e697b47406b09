"""How large a GPT-2 is, counted on paper, and the families of presets that follow one dial.

Nothing here builds a model: a test compares the counts with those of one, and with XLA's.
"""

import re
from typing import NamedTuple

from ml_collections import ConfigDict

from runtime.errors import UserError

HEAD_DIM = 32
# What each run of the vocabularies may cost: the default's 1,500 first updates or so.
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
# Operations besides products, forward and backward: on a unit of the MLP, on a number of the
# residual stream in a block, on a score of attention, on a logit.
ON_UNIT, ON_STREAM, ON_SCORE, ON_LOGIT = 30, 34, 12, 6
# Muon's suits all rungs (0.02 and 0.04 were tried); Adam's, for embeddings and what else is no
# matrix of a block, falls from the smallest rung on.
LADDER_LEARNING_RATE, LADDER_ADAM_LEARNING_RATE = 0.03, 0.02
LARGEST_RUNG = 64
# How the families below are spelled, for a message.
FAMILY_NAMES = ("ladder-<n>", "ladder-<n>-<m>M", "width-<n>", "vocabulary-<tokenizer>")


class Parameters(NamedTuple):
    """Numbers that training adjusts: of tokens, pairs of them and positions, and of all else."""

    embedding: int
    rest: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.rest


def count_parameters(model: ConfigDict, vocab_size: int) -> Parameters:
    """Of the GPT-2 that a config's `model` describes; the head counts as embedding if it has any
    of its own.
    """
    D, L = model.embed_dim, model.num_layers
    tables = 1 if model.tied_embeddings else 2
    embedding = tables * vocab_size * D
    embedding += model.num_pair_embeddings * D
    if model.positions == "learned":
        embedding += model.context_length * D
    wide = _kv_dim(model)
    attention = 2 * D * D + 2 * D * wide
    mlp = _num_mlp_matrices(model) * D * _mlp_dim(model)
    norm = {"layer_norm": 1 + model.use_bias, "rms_norm": 1, "rms_norm_unscaled": 0}[model.norm]
    norms = norm * (2 * D * L + D)
    if model.query_key_norm:
        norms += norm * 2 * L * D // model.num_heads
    biases = 0
    if model.use_bias:
        biases = 3 * D + 2 * wide + (_num_mlp_matrices(model) - 1) * _mlp_dim(model)
    return Parameters(embedding, L * (attention + mlp + biases) + norms)


def flops_per_token(model: ConfigDict, vocab_size: int) -> float:
    """Floating-point operations of a forward and a backward pass, for each token of a window.

    Of products each number of a matrix has 2 forward and 4 backward; attention is as it is defined,
    with what the mask hides (Hoffmann et al., 2022, appendix F). All else is a few operations on
    each number, as many as XLA counts on average.
    """
    D, T = model.embed_dim, model.context_length
    attention = 2 * D * D + 2 * D * _kv_dim(model)
    mlp = _num_mlp_matrices(model) * D * _mlp_dim(model)
    scores_and_mix = 2 * T * D
    on_numbers = ON_UNIT * _mlp_dim(model) + ON_STREAM * D + ON_SCORE * model.num_heads * T
    products = model.num_layers * (attention + mlp + scores_and_mix) + D * vocab_size
    return 6.0 * products + model.num_layers * on_numbers + ON_LOGIT * vocab_size


def _kv_dim(model: ConfigDict) -> int:
    return model.embed_dim // model.num_heads * (model.num_kv_heads or model.num_heads)


def _num_mlp_matrices(model: ConfigDict) -> int:
    return 3 if model.activation == "swiglu" else 2


def _mlp_dim(model: ConfigDict) -> int:
    usual = 8 * round(model.embed_dim / 3) if model.activation == "swiglu" else 4 * model.embed_dim
    return model.mlp_dim or usual


def family(preset: str, config: ConfigDict) -> dict[str, dict]:
    """The preset of that name, if it belongs to a family; nothing if it does not.

    - `ladder-3`: three blocks, three heads, 96 wide, Muon, 20 tokens a parameter; `ladder-3-2M`:
      two million tokens.
    - `width-256`: the default's depth at that width, with heads of 32.
    - `vocabulary-bpe:512`: that tokenizer, for as many updates as the same FLOPs allow.

    Raises UserError for a number out of range. `config` is what the preset changes.
    """
    if found := re.fullmatch(r"ladder-(\d+)(?:-(\d+(?:\.\d+)?)M)?", preset):
        rung, millions = int(found[1]), found[2]
        if not 1 <= rung <= LARGEST_RUNG:
            raise UserError(f"preset {preset!r}: expected ladder-1 to ladder-{LARGEST_RUNG}")
        made = _rung(rung, 1e6 * float(millions) if millions else None, config)
        return {preset: _with_updates(preset, made)}
    if found := re.fullmatch(r"width-(\d+)", preset):
        width = int(found[1])
        if width < HEAD_DIM or width % HEAD_DIM:
            raise UserError(f"preset {preset!r}: expected a multiple of {HEAD_DIM} as the width")
        return {preset: _wide(width)}
    if preset.startswith("vocabulary-"):
        name = preset.removeprefix("vocabulary-")
        if name not in VOCABULARIES:
            known = ", ".join(VOCABULARIES)
            raise UserError(f"preset {preset!r}: expected vocabulary- and one of {known}")
        return {preset: _with_updates(preset, _vocabulary(name, config))}
    return {}


def _with_updates(preset: str, made: dict) -> dict:
    """`made`. Raises UserError if that leaves no update to be made."""
    if not made["train.num_steps"]:
        raise UserError(f"preset {preset!r}: that is less than one batch; ask for a smaller model")
    return made


def _wide(width: int) -> dict:
    return {"model.embed_dim": width, "model.num_heads": width // HEAD_DIM}


def rung_parameters(rung: int, model: ConfigDict) -> Parameters:
    """Of that rung of the ladder, if `model` says what all rungs have alike."""
    model = ConfigDict(model.to_dict())
    model.update(num_layers=rung, embed_dim=HEAD_DIM * rung, num_heads=rung)
    return count_parameters(model, VOCABULARIES["char"])


def _rung(rung: int, tokens: float | None, config: ConfigDict) -> dict:
    """Depth, width, heads, learning rate and batch size of a rung of the ladder."""
    shape = {"model.num_layers": rung, **_wide(HEAD_DIM * rung)}
    model = config.model
    if tokens is None:
        tokens = 20 * rung_parameters(rung, model).total
    # The largest batch that costs no tokens grows with the tokens and hardly with the model: Zhang
    # et al. (2024), "How does critical batch size scale in pre-training?".
    batch_size = 2 * max(2, round(4 * (tokens / 1e6) ** 0.5))
    num_steps = round(tokens / (batch_size * model.context_length))
    return {
        **shape,
        # AdamW takes more updates than a million tokens hold to train the deeper rungs, so that
        # their loss would speak of the optimizer and not of the size.
        "optimizer.name": "muon",
        "optimizer.learning_rate": LADDER_LEARNING_RATE,
        "optimizer.adam_learning_rate": LADDER_ADAM_LEARNING_RATE / rung,
        "train.batch_size": batch_size,
        **_paced(num_steps),
    }


def _vocabulary(name: str, config: ConfigDict) -> dict:
    flops = flops_per_token(config.model, VOCABULARIES[name])
    tokens_per_step = config.train.batch_size * config.model.context_length
    num_steps = round(VOCABULARY_FLOPS / flops / tokens_per_step)
    return {"data.tokenizer": name, **_paced(num_steps)}


def _paced(num_steps: int) -> dict:
    """What belongs to a run of so many updates."""
    return {
        "train.num_steps": num_steps,
        "train.log_every_steps": max(1, num_steps // 50),
        "optimizer.warmup_steps": num_steps // 10,
        "eval.every_steps": max(1, num_steps // 4),
        "sample.every_steps": max(1, num_steps // 2),
    }
