"""Presets of the made texts, each of which needs one idea: `text-sum` in every stage's experiment.

input_pipeline/made_texts.py draws them; sweeps/texts.yaml trains the five stages on the five texts.
A window of 32 letters is one record. All stages have the same width, batch and updates.
"""

from ml_collections import ConfigDict

from experiments.default import Preset
from runtime.errors import UserError

PREFIX = "made:"  # Of data.name.
# By name, in an order in which each needs one idea more.
IDEAS = {
    "previous": "the letter before: a table of pairs is enough",
    "five_back": "the letter five places back: attention and positions",
    "two_places": "two letters, whose tables are multiplied: heads",
    "sum": "the sum of two letters, modulo 16: an MLP",
    "new_table": "a table that is new in each window, learned from it: two blocks",
}
FAMILIES = {"text-<name>": f"a made text: {', '.join(IDEAS)} (input_pipeline/made_texts.py)"}

_SHARED: Preset = {
    "model.context_length": 32,
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 50,
    "train.batch_size": 64,
    "train.num_steps": 600,
    "train.flops": 0.0,
    "train.precision": "float32",
    "train.log_every_steps": 25,
    "train.steps_per_dispatch": 25,
    "eval.every_steps": 0,
    "eval.batch_size": 128,
    "sample.every_steps": 0,
    "sample.num_tokens": 32,
}
# By stage, what differs.
_WIDTH = {"model.embed_dim": 64}
_HEADS = {**_WIDTH, "model.num_heads": 4}
_BLOCKS = {**_HEADS, "model.num_layers": 2}
_OF_STAGE: dict[str, Preset] = {
    "bigram": {"optimizer.learning_rate": 0.05},  # One table, with no layers, stays stable.
    "self_attention": _WIDTH,
    "multi_head_attention": _HEADS,
    "transformer_decoder": _BLOCKS,
    # A window rarely comes again, so there is nothing to regularize. GPT-2's initial weights, of
    # standard deviation 0.02, suit its width of 768: from them 1,500 updates did not learn the last
    # two texts (docs/texts.md).
    "gpt2": {**_BLOCKS, "model.dropout_rate": 0.0, "model.without": "initialization"},
}


def family(preset: str, config: ConfigDict) -> dict[str, Preset]:
    """Returns {preset: its changes to `config`} if it is one of FAMILIES, else {}.

    Raises UserError for a text that there is not.
    """
    stage = config.model.name
    if not preset.startswith("text-"):
        return {}
    found = {
        f"text-{name}": {
            **_SHARED,
            **_OF_STAGE[stage],
            "data.name": PREFIX + name,
            "tracking.group": f"{stage} {name}",
        }
        for name in IDEAS
    }
    if preset not in found:
        raise UserError(f"preset {preset!r}: expected one of {', '.join(found)}")
    return found
