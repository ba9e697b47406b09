"""Tables between Hugging Face's GPT-2 and ours: tensors and settings, read in both directions.

Kernels are [in, out] on both sides, so that numbers are copied and never transposed, but for an
untied head. Gradients convert the same way.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from runtime.errors import UserError

# Their setting: ours, and the value, with its type, that a config.json without the key has.
SETTINGS = {
    "n_positions": ("context_length", 1024),
    "n_embd": ("embed_dim", 768),
    "n_head": ("num_heads", 12),
    "n_layer": ("num_layers", 12),
    "n_inner": ("mlp_dim", 0),
    "activation_function": ("activation", "gelu_new"),
    "layer_norm_epsilon": ("norm_epsilon", 1e-5),
    "tie_word_embeddings": ("tied_embeddings", True),
}
# Other names of the same settings.
ALIASES = {
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
VOCAB_SIZE = 50_257  # Of a config.json without vocab_size.
ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "gelu_accurate": "gelu",
    "gelu_python_tanh": "gelu",
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}
# Settings of a GPT2Config that no model here supports, and the only value accepted.
FIXED = {"add_cross_attention": False, "quantization_config": None}
# Settings of a model here that GPT2Config lacks, and GPT-2's values.
NOT_GPT2 = {
    "positions": "learned",
    "norm": "layer_norm",
    "use_bias": True,
    "query_key_norm": False,
    "num_kv_heads": 0,
    "logit_soft_cap": 0.0,
    "num_pair_embeddings": 0,
    "mup_base_dim": 0,
    "without": "",
}

# Tensors of a block, theirs and ours; one of theirs concatenates query, key and value.
BLOCK = {
    "ln_1": ["attention_norm"],
    "attn.c_attn": ["attention/query", "attention/key", "attention/value"],
    "attn.c_proj": ["attention/out"],
    "ln_2": ["mlp_norm"],
    "mlp.c_fc": ["mlp/up"],
    "mlp.c_proj": ["mlp/down"],
}
HEAD, TOKENS, POSITIONS = "lm_head.weight", "wte.weight", "wpe.weight"
# Prefix of their names, absent in files on the hub. Old files hold masks among the parameters.
PREFIX, MASKS = "transformer.", (".attn.bias", ".attn.masked_bias")
# Prefixes of heads beside the language model's, which `transformers` leaves out as well: those of
# GPT2DoubleHeadsModel and of models that classify or answer.
OTHER_HEADS = ("multiple_choice_head.", "score.", "classifier.", "qa_outputs.")


def settings_from(theirs: dict[str, Any], where: object) -> dict[str, Any]:
    """Returns a GPT2Config as keys of `config.model`. Raises UserError for other settings."""
    is_old = str(theirs.get("architectures")).startswith("['GPT2")  # Then had no model_type.
    if theirs.get("model_type", "gpt2" if is_old else None) != "gpt2":
        raise UserError(f"{where}: model_type is {theirs.get('model_type')!r}: expected 'gpt2'")
    # None stands for the default; for n_inner that is 4 n_embd, our 0.
    stated = {ALIASES.get(key, key): value for key, value in theirs.items() if value is not None}
    found = {ours: stated.get(name, usual) for name, (ours, usual) in SETTINGS.items()}
    wrong = [
        f"{name} is {found[ours]!r}: expected {type(usual).__name__}"
        for name, (ours, usual) in SETTINGS.items()
        if type(found[ours]) is not type(usual)
    ]
    wrong += [
        f"{name} is {theirs[name]!r:.60}: only {value!r} is supported"
        for name, value in FIXED.items()
        if theirs.get(name, value) != value
    ]
    if not wrong and found["activation"] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        wrong.append(f"activation_function is {found['activation']!r}: expected one of {known}")
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}")
    return found | {"activation": ACTIVATIONS[found["activation"]]}


def check_is_gpt2(ours: dict[str, Any]) -> None:
    """Raises UserError for a `config.model` with settings that GPT2Config lacks."""
    wrong = [
        f"--config.model.{key} is {ours[key]!r}: GPT-2's is {value!r}"
        for key, value in {"name": "gpt2", **NOT_GPT2}.items()
        if ours[key] != value
    ]
    if wrong:
        raise UserError(f"transformers' GPT-2 has no such settings: {'; '.join(wrong)}")


def settings_to(ours: dict[str, Any], vocab_size: int, end_of_text: int | None) -> dict[str, Any]:
    """Returns a `config.model` as a GPT2Config. Raises UserError for settings that it lacks."""
    check_is_gpt2(ours)
    names = {our_name: their_name for their_name, our_name in reversed(ACTIVATIONS.items())}
    if ours["activation"] not in names:
        known = ", ".join(sorted(names))
        raise UserError(
            f"--config.model.activation is {ours['activation']!r}: expected one of {known}"
        )
    rate, attention_rate = ours["dropout_rate"], ours["attention_dropout_rate"]
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": vocab_size,
        # Their defaults are ids of the published vocabulary.
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
        **{name: ours[key] for name, (key, _) in SETTINGS.items()},
        "activation_function": names[ours["activation"]],
        "n_inner": ours["mlp_dim"] or None,  # None is 4 n_embd.
        "attn_pdrop": attention_rate if attention_rate >= 0 else rate,
        "embd_pdrop": rate,
        "resid_pdrop": rate,
    }


def tensor_names(num_layers: int, tied_embeddings: bool) -> dict[str, list[str]]:
    """Returns the leaves of ours in each of their tensors, by its name without the prefix."""
    names = {TOKENS: ["embed/token/embedding"], POSITIONS: ["embed/position/embedding"]}
    places = {"ln_f": ["final_norm"]}
    for layer in range(num_layers):
        for theirs, ours in BLOCK.items():
            places[f"h.{layer}.{theirs}"] = [f"block_{layer}/{one}" for one in ours]
    for theirs, ours in places.items():
        weight = "scale" if "norm" in ours[0] else "kernel"
        names[f"{theirs}.weight"] = [f"{one}/{weight}" for one in ours]
        names[f"{theirs}.bias"] = [f"{one}/bias" for one in ours]
    if not tied_embeddings:
        names[HEAD] = ["logits/kernel"]
    return names


def to_params(tensors: dict[str, np.ndarray], model: nn.Module) -> dict:
    """Returns a GPT2LMHeadModel's tensors as float32 parameters, or raises as `check_shapes`.

    Positions beyond the model's context, and rows beyond its vocabulary, are left out.
    """
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    # Only a GPT2Variant may have a head that is not the token embedding.
    is_tied = getattr(model, "tied_embeddings", True)
    if is_tied and HEAD in tensors:
        tensors.setdefault(TOKENS, tensors[HEAD])  # The file may hold the one, the other or both.
    names = tensor_names(model.num_layers, is_tied)
    check_shapes({name: tensor.shape for name, tensor in tensors.items()}, names, model)
    if is_tied and HEAD in tensors and not np.array_equal(tensors[HEAD], tensors[TOKENS]):
        raise UserError(
            f"{HEAD} differs from {TOKENS}, which is the head of a config.json with "
            "tie_word_embeddings: set that to false there"
        )
    leaves: dict[str, np.ndarray] = {}
    for name, ours in names.items():
        tensor = np.asarray(tensors[name], np.float32)[: _rows(model).get(name)]
        parts = [tensor.T] if name == HEAD else np.split(tensor, len(ours), axis=-1)
        leaves |= dict(zip(ours, map(np.ascontiguousarray, parts), strict=True))
    return unflatten_dict(leaves, sep="/")


def with_gpt2_scales(params: dict, theirs: dict[str, Any]) -> dict:
    """Returns parameters for which GPT-2's scale of the scores, 1/sqrt(K), is right.

    A GPT2Config may have none, or another by layer; its ratio goes into the weights of the query.
    """
    leaves = flatten_dict(params, sep="/")
    for path, leaf in leaves.items():
        if "/attention/query/" in path:
            ratio = 1.0
            if not theirs.get("scale_attn_weights", True):
                num_heads = settings_from(theirs, "config.json")["num_heads"]
                ratio = (leaf.shape[-1] / num_heads) ** 0.5
            if theirs.get("scale_attn_by_inverse_layer_idx", False):
                ratio /= int(path.split("/")[0].removeprefix("block_")) + 1
            leaves[path] = leaf if ratio == 1 else leaf * np.float32(ratio)
    return unflatten_dict(leaves, sep="/")


def _rows(model: nn.Module) -> dict[str, int]:
    """Returns the rows of tables that a file may have more of."""
    return {POSITIONS: model.context_length, TOKENS: model.vocab_size, HEAD: model.vocab_size}


def from_params(params: dict) -> dict[str, np.ndarray]:
    """Returns the tensors of a GPT2LMHeadModel, by their names there, from our parameters."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
    num_layers = sum(name.startswith("block_") for name in params)
    tensors = {}
    for name, ours in tensor_names(num_layers, "logits" not in params).items():
        tensor = np.concatenate([leaves[one] for one in ours], axis=-1)
        full_name = name if name == HEAD else PREFIX + name
        tensors[full_name] = np.ascontiguousarray(tensor.T if name == HEAD else tensor)
    return tensors


def check_shapes(there: dict[str, tuple], names: dict[str, list], model: nn.Module) -> None:
    """Raises a UserError that lists missing (-), surplus (+) and misshapen tensors for `model`."""
    there = {
        name: shape
        for name, shape in there.items()
        if not name.endswith(MASKS) and not name.startswith(OTHER_HEADS)
    }
    if HEAD not in names:
        there.pop(HEAD, None)  # The file may hold a tied head twice.
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    leaves = {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}
    for name, rows in _rows(model).items():
        if len(there.get(name, ())) == 2:
            there[name] = min(there[name][0], rows), there[name][1]
    wanted = {}
    for name, ours in names.items():
        shape = (*leaves[ours[0]][:-1], sum(leaves[one][-1] for one in ours))
        wanted[name] = shape[::-1] if name == HEAD else shape
    differences = [f"-{name} {list(wanted[name])}" for name in wanted if name not in there]
    differences += [f"+{name} {list(there[name])}" for name in there if name not in wanted]
    differences += [
        f"{name} {list(there[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in there and tuple(there[name]) != shape
    ]
    if differences:
        more = f", and {len(differences) - 12} more" if differences[12:] else ""
        raise UserError(
            "the tensors do not fit the config.json beside them (- missing, + surplus): "
            f"{', '.join(differences[:12])}{more}"
        )
