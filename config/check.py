"""Checks of a config's keys, types and ranges, from flags and from config.json.

They run before anything is compiled or written, and report all errors together. Names of models,
data sets and optimizers are checked where those are defined.
"""

import difflib
import math
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

import run_folder
from experiments import default, listing
from runtime.errors import UserError

# Types in error messages.
TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
# Seeds have 32 bits.
MAX_SEED = 2**32 - 1
# Tokens of one dispatch: 1 GiB, at 4 bytes each.
MAX_TOKENS = 2**28


class Range(NamedTuple):
    """Predicate for the values of a key, and its description in an error message."""

    contains: Callable[[Any], bool]
    expected: str


def integer(low: int, high: int, at_zero: str = "") -> Range:
    """Returns the range from `low` to `high`, both included; `at_zero` explains 0."""
    return Range(lambda value: low <= value <= high, f"{low}{at_zero} to {high}")


def non_negative(at_zero: str = "") -> Range:
    """Returns the range of finite numbers of at least 0; `at_zero` explains 0."""
    return Range(lambda value: 0 <= value < math.inf, f"0{at_zero} or more")


FRACTION = Range(lambda value: 0 <= value < 1, "0 or more, and less than 1")
# Steps are counted in 32 bits. The other limits are far above practical sizes: a larger value is a
# typing error, or a file made to exhaust the memory.
STEPS = 2**31 - 1
AT_ENDS = " (first and last step only)"
DEVICES = Range(
    lambda value: value == -1 or 1 <= value <= 2**20,
    "-1 (all devices that the other axes leave), or 1 to 1048576",
)

RANGES = {
    "seed": integer(0, MAX_SEED),
    "model.context_length": integer(0, 2**20),
    "model.embed_dim": integer(0, 2**16),
    "model.num_heads": integer(0, 2**10),
    "model.num_layers": integer(0, 2**10),
    "model.dropout_rate": FRACTION,
    "model.attention_dropout_rate": Range(
        lambda value: value == -1 or 0 <= value < 1,
        "-1 (the value of --config.model.dropout_rate), or 0 or more, and less than 1",
    ),
    "model.pad_vocab_to": integer(0, 2**24, " (off)"),
    "model.mlp_dim": integer(0, 2**18),
    "model.norm_epsilon": non_negative(),
    "model.num_kv_heads": integer(0, 2**10),
    "model.logit_soft_cap": non_negative(" (off)"),
    "model.num_pair_embeddings": integer(0, 2**24, " (off)"),
    "model.mup_base_dim": integer(0, 2**16, " (off)"),
    "optimizer.learning_rate": non_negative(),
    "optimizer.adam_learning_rate": non_negative(),
    "optimizer.final_learning_rate": non_negative(),
    "optimizer.warmup_steps": integer(0, STEPS),
    "optimizer.decay_share": Range(lambda value: 0 < value <= 1, "above 0, and at most 1"),
    "optimizer.momentum": FRACTION,
    "optimizer.b1": FRACTION,
    "optimizer.b2": FRACTION,
    "optimizer.weight_decay": non_negative(),
    "optimizer.grad_clip_norm": non_negative(),
    "train.batch_size": integer(1, 2**20),
    "train.grad_accumulation_steps": integer(1, 2**20),
    "train.num_steps": integer(1, STEPS),
    "train.flops": non_negative(" (off)"),
    "train.log_every_steps": integer(1, STEPS),
    "train.log_norms_every_steps": integer(0, STEPS, " (off)"),
    "train.steps_per_dispatch": integer(1, 10_000),
    "train.z_loss": non_negative(),
    "train.loss_chunks": integer(1, 2**20),
    "train.max_skipped_updates": integer(0, STEPS),
    **{f"mesh.{axis}": DEVICES for axis in ("data", "fsdp", "tensor")},
    "eval.every_steps": integer(0, STEPS, AT_ENDS),
    "eval.patience": integer(0, STEPS, " (off)"),
    "eval.min_delta": non_negative(),
    "eval.max_tokens": integer(0, 2**40, " (all)"),
    "eval.batch_size": integer(1, 2**20),
    "sample.every_steps": integer(0, STEPS, AT_ENDS),
    "sample.num_tokens": integer(0, 10**6, " (no samples)"),
    "checkpoint.every_steps": integer(0, STEPS, " (at evaluations only)"),
    "checkpoint.every_minutes": non_negative(" (off)"),
    "checkpoint.keep": integer(1, 10**6),
    "checkpoint.snapshots": integer(0, 1000, " (none)"),
}
# Pairs of keys of which the first must divide the second.
DIVISORS = (
    ("train.grad_accumulation_steps", "train.batch_size"),
    ("train.loss_chunks", "model.context_length"),
)


# Values of the keys that are one of a few words.
CHOICES = {
    "optimizer.schedule": ("cosine", "linear", "wsd"),
    "train.remat": ("none", "blocks"),
    "tracking.log_model": ("none", "final", "best"),
}


def find_errors(config: ConfigDict) -> list[str]:
    """Returns a message for each type or value in `config` that is wrong."""
    return find_type_errors(config) or find_value_errors(config)


def find_type_errors(config: ConfigDict) -> list[str]:
    """Returns a message for each key whose type differs from that in experiments/default.py."""
    flat = run_folder.flatten(config.to_dict())
    defaults = run_folder.flatten(default.get_config().to_dict())
    return [message for key in flat if (message := _type_error(key, flat[key], defaults.get(key)))]


def find_value_errors(config: ConfigDict) -> list[str]:
    """Returns a message for each value out of range, if all types are right."""
    flat = run_folder.flatten(config.to_dict())
    valid = {key for key in RANGES if RANGES[key].contains(flat[key])}
    found = [
        f"--config.{key}={flat[key]}: expected {RANGES[key].expected}"
        for key in RANGES
        if key not in valid
    ]
    found += [
        f"--config.{key}={flat[key]}: expected a divisor of --config.{total}={flat[total]}"
        for key, total in DIVISORS
        if {key, total} <= valid and flat[total] % flat[key]
    ]
    found += [
        f"--config.{key}={flat[key]!r}: expected one of {', '.join(words)}"
        for key, words in CHOICES.items()
        if flat[key] not in words
    ]
    if flat["eval.patience"] > 0 == flat["eval.every_steps"] and not flat["eval.milestones"]:
        found.append(
            f"--config.eval.patience={flat['eval.patience']} needs evaluations during training: "
            "set --config.eval.every_steps, or --config.eval.milestones=true"
        )
    sizes = ("train.steps_per_dispatch", "train.batch_size", "model.context_length")
    steps, batch_size, context_length = (flat[key] for key in sizes)
    tokens = steps * batch_size * (context_length + 1)
    if valid.issuperset(sizes) and tokens > MAX_TOKENS:
        found.append(
            f"--config.train.steps_per_dispatch={steps} times "
            f"--config.train.batch_size={batch_size} windows are {tokens} tokens "
            f"at once: expected {MAX_TOKENS} at most; lower one of them"
        )
    return found


def raise_errors(found: Sequence[str]) -> None:
    """Raises UserError with all messages in `found`, unless it is empty."""
    if found:
        raise UserError("; ".join(found))


def collect_errors(*checks: Callable[[], Any]) -> list[str]:
    """Calls each of `checks`, and returns the messages of the UserErrors that they raise."""
    found = []
    for one in checks:
        try:
            one()
        except UserError as error:
            found.append(str(error))
    return found


def from_json(content: Any, folder: Path) -> ConfigDict:
    """Returns the config of a run folder; newer keys take their defaults. Raises UserError."""
    config = default.get_config()
    if isinstance(content, dict):
        found = update(config, run_folder.flatten(content))
    else:
        found = [f"expected an object, not {content!r:.40}"]
    if found := found or find_errors(config):
        raise UserError(f"{folder / run_folder.CONFIG}: {'; '.join(found)}")
    return config


def update(config: ConfigDict, values: Mapping[str, Any]) -> list[str]:
    """Sets dotted keys of `config`; returns a message for each that is wrong, in name or type."""
    known, found = run_folder.flatten(config.to_dict()), []
    for key, value in values.items():
        if key not in known:
            found.append(_unknown_key(key, known))
        elif message := _type_error(key, value, known[key]):
            found.append(message)
        else:
            value = tuple(value) if isinstance(known[key], tuple) else value
            config.update_from_flattened_dict({key: value})
    return found


def explain_flags(argv: Sequence[str]) -> str:
    """Returns all errors if a `--config` flag in `argv` is unknown or of a wrong type, else "".

    A flag that is a config key without its prefix is an error, too.
    """
    files = [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    given = [word for word in argv if word.startswith("--config.") and "=" in word]
    if hints := [hint for word in argv if (hint := _hint(word))]:
        return "; ".join(hints)
    if not files:
        return f"{given[0]} needs an experiment before it: --config=gpt2:smoke" if given else ""
    if missing := listing.explain(files[-1]):
        return missing
    path, _, preset = files[-1].partition(":")
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(preset) if preset else get_config()
    except Exception:
        return ""  # The experiment file itself is wrong: absl's error names it.
    known, found = run_folder.flatten(config.to_dict()), []
    for word in given:
        key, _, value = word.removeprefix("--config.").partition("=")
        if any(one.startswith(f"{key}.") for one in known):
            found.append(f"{word}: {key!r} is a group of keys; set one of them")
        elif key not in known:
            found.append(_unknown_key(key, known))
        elif (parsed := _parse(value, known[key])) is None:
            found.append(f"{word}: expected {TYPES[type(known[key])]}")
        elif parsed is not known[key]:
            config.update_from_flattened_dict({key: parsed})
    return "; ".join([*found, *find_errors(config)] if found else [])


def _hint(word: str) -> str:
    """Returns a message for a flag that is meant as a config key: --learning_rate=1; else ""."""
    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    if not word.startswith("-") or name.startswith("config") or name in flags.FLAGS:
        return ""
    # A slip in the name of a flag is absl's to explain.
    if difflib.get_close_matches(name, list(flags.FLAGS), 1, 0.8):
        return ""
    by_name: dict[str, list[str]] = {}
    for key in run_folder.flatten(default.get_config().to_dict()):
        for spelling in {key, key.rpartition(".")[-1]}:
            by_name.setdefault(spelling, []).append(f"--config.{key}")
    similar = difflib.get_close_matches(name, by_name, 1, 0.7)
    return f"no flag --{name}: did you mean {' or '.join(by_name[similar[0]])}?" if similar else ""


def _parse(text: str, before: Any) -> Any:
    """Returns a flag's value, None for a wrong type, `before` for a type that only absl parses."""
    try:
        if isinstance(before, bool):
            return flags.BooleanParser().parse(text)
        return type(before)(text) if isinstance(before, int | float | str) else before
    except ValueError:
        return None


def _type_error(key: str, value: Any, before: Any) -> str:
    """Returns a message if the type of `value` is not that of `before`, else an empty string."""
    if isinstance(before, tuple):
        is_list = isinstance(value, tuple | list)
        good = is_list and all(isinstance(one, str) for one in value)
        return "" if good else f"--config.{key}={value!r:.60}: expected a list of strings"
    if before is None or type(value) is type(before):
        return ""
    if isinstance(before, float) and type(value) is int and abs(value) <= sys.float_info.max:
        return ""
    return f"--config.{key}={value!r:.60}: expected {TYPES[type(before)]}"


def _unknown_key(key: str, known: dict[str, Any]) -> str:
    """Returns a message that suggests the most similar key."""
    last = key.rpartition(".")[-1]
    same_name = [one for one in known if one.rpartition(".")[-1] == last]
    similar = same_name or difflib.get_close_matches(key, known, n=1)
    if not similar:
        by_name = {one.rpartition(".")[-1]: one for one in known}
        similar = [by_name[name] for name in difflib.get_close_matches(last, by_name, n=1)]
    hint = f"did you mean {similar[0]!r}?" if similar else "see experiments/default.py"
    return f"no config key {key!r}: {hint}"
