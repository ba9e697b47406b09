"""What a config may hold: its keys, their types and ranges, and how flags and files spell them.

All mistakes are found before anything is compiled or written, and reported together. What depends
on names that belong elsewhere (models, data sets, optimizers) is checked where those are.
"""

import difflib
import math
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import run_folder
from experiments import default
from runtime.errors import UserError

# How a person says the types.
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
BOOLEANS = ("true", "false", "t", "f", "1", "0")
# Windows of a dispatch, in tokens of 4 bytes: 1 GiB.
MOST_TOKENS = 2**28


class Range(NamedTuple):
    """Which values a key may have, and the words for it."""

    holds: Callable[[Any], bool]
    expected: str


def whole(least: int, most: int, meaning: str = "") -> Range:
    """From `least` to `most`, both included."""
    return Range(lambda value: least <= value <= most, f"{least}{meaning} to {most}")


def finite(meaning: str = "") -> Range:
    """0 or more, and a number."""
    return Range(lambda value: 0 <= value < math.inf, f"0{meaning} or more")


SHARE = Range(lambda value: 0 <= value < 1, "0 or more, and less than 1")
# Steps are counted in 32 bits. The other limits are far above what anyone trains; what lies past
# them is a slip, or a file that was made to exhaust the memory.
STEPS = 2**31 - 1
NOT_BETWEEN = " (not between the ends)"

RANGES = {
    "seed": whole(0, 2**32 - 1),
    "model.context_length": whole(0, 2**20),
    "model.embed_dim": whole(0, 2**16),
    "model.num_heads": whole(0, 2**10),
    "model.num_layers": whole(0, 2**10),
    "model.dropout_rate": SHARE,
    "model.attention_dropout_rate": Range(
        lambda value: value == -1 or 0 <= value < 1,
        "-1 (that of config.model.dropout_rate), or 0 or more, and less than 1",
    ),
    "model.mlp_dim": whole(0, 2**18),
    "model.norm_epsilon": finite(),
    "model.num_kv_heads": whole(0, 2**10),
    "model.logit_soft_cap": finite(" (none)"),
    "model.num_pair_embeddings": whole(0, 2**24, " (none)"),
    "model.mup_base_dim": whole(0, 2**16, " (off)"),
    "optimizer.learning_rate": finite(),
    "optimizer.adam_learning_rate": finite(),
    "optimizer.final_learning_rate": finite(),
    "optimizer.warmup_steps": whole(0, STEPS),
    "optimizer.decay_share": Range(lambda value: 0 < value <= 1, "above 0, and at most 1"),
    "optimizer.momentum": SHARE,
    "optimizer.b1": SHARE,
    "optimizer.b2": SHARE,
    "optimizer.weight_decay": finite(),
    "optimizer.grad_clip_norm": finite(),
    "train.batch_size": whole(1, 2**20),
    "train.grad_accumulation_steps": whole(1, 2**20),
    "train.num_steps": whole(1, STEPS),
    "train.log_every_steps": whole(1, STEPS),
    "train.steps_per_dispatch": whole(1, 10_000),
    "train.z_loss": finite(),
    "train.loss_chunks": whole(1, 2**20),
    "train.max_skipped_updates": whole(0, STEPS),
    "eval.every_steps": whole(0, STEPS, NOT_BETWEEN),
    "eval.batch_size": whole(1, 2**20),
    "sample.every_steps": whole(0, STEPS, NOT_BETWEEN),
    "sample.num_tokens": whole(1, 10**6),
    "checkpoint.every_steps": whole(0, STEPS, NOT_BETWEEN),
    "checkpoint.every_minutes": finite(" (not by the clock)"),
    "checkpoint.keep": whole(1, 10**6),
}


def mistakes(config: ConfigDict) -> list[str]:
    """What is wrong with the types and ranges in `config`, a sentence each."""
    # Ranges of what is no number mean nothing.
    return mistaken_types(config) or mistaken_values(config)


def mistaken_types(config: ConfigDict) -> list[str]:
    """The keys whose values are of another type than in experiments/default.py."""
    flat = run_folder.flatten(config.to_dict())
    defaults = run_folder.flatten(default.get_config().to_dict())
    return [message for key in flat if (message := _of_type(key, flat[key], defaults.get(key)))]


def mistaken_values(config: ConfigDict) -> list[str]:
    """The keys whose values are out of range; their types are right."""
    flat = run_folder.flatten(config.to_dict())
    found = [
        f"config.{key}={flat[key]}: expected {allowed.expected}"
        for key, allowed in RANGES.items()
        if not allowed.holds(flat[key])
    ]
    train = config.train
    if _hold(flat, "train.batch_size", "train.grad_accumulation_steps") and (
        train.batch_size % train.grad_accumulation_steps
    ):
        found.append(
            f"config.train.grad_accumulation_steps={train.grad_accumulation_steps}: expected a "
            f"divisor of config.train.batch_size={train.batch_size}"
        )
    length = config.model.context_length
    if _hold(flat, "train.loss_chunks") and length % train.loss_chunks:
        found.append(
            f"config.train.loss_chunks={train.loss_chunks}: expected a divisor of "
            f"config.model.context_length={length}"
        )
    if train.remat not in ("none", "blocks"):
        found.append(f"config.train.remat={train.remat!r}: expected 'none' or 'blocks'")
    tokens = train.steps_per_dispatch * train.batch_size * (length + 1)
    sizes = ("train.steps_per_dispatch", "train.batch_size", "model.context_length")
    if _hold(flat, *sizes) and tokens > MOST_TOKENS:
        found.append(
            f"config.train.steps_per_dispatch={train.steps_per_dispatch} times batch_size="
            f"{train.batch_size} windows are {tokens} tokens at once: expected {MOST_TOKENS} at "
            "most; lower one of them"
        )
    return found


def _hold(flat: dict[str, Any], *keys: str) -> bool:
    return all(RANGES[key].holds(flat[key]) for key in keys)


def refuse(found: Sequence[str]) -> None:
    """Raises UserError with all of `found` in one line, if there is any."""
    if found:
        raise UserError("; ".join(found))


def collect(*checks: Callable[[], Any]) -> list[str]:
    """The messages of the UserErrors that `checks` raise, each of which is called."""
    found = []
    for one in checks:
        try:
            one()
        except UserError as error:
            found.append(str(error))
    return found


def from_json(content: Any, folder: Path) -> ConfigDict:
    """The config in a run folder's config.json. A key that it lacks is newer than the run.

    Raises UserError for keys, types and values that no run of this program can have.
    """
    config = default.get_config()
    known = run_folder.flatten(config.to_dict())
    found = [] if isinstance(content, dict) else [f"expected an object, not {content!r:.40}"]
    for key, value in run_folder.flatten(content).items() if not found else ():
        if key not in known:
            found.append(_unknown(key, known))
        elif message := _of_type(key, value, known[key]):
            found.append(message)
        else:
            value = tuple(value) if isinstance(known[key], tuple) else value
            config.update_from_flattened_dict({key: value})
    refuse([f"{folder / 'config.json'}: {'; '.join(found)}"] if found else mistakes(config))
    return config


def explain_flags(argv: Sequence[str]) -> str:
    """All that is wrong with the `--config` flags among `argv`; empty if it is something else."""
    files = [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    given = [word for word in argv if word.startswith("--config.") and "=" in word]
    if not files:
        return ""
    path, _, preset = files[-1].partition(":")
    try:
        get_config = runpy.run_path(path)["get_config"]
        config = get_config(preset) if preset else get_config()
    except Exception:
        return ""  # The file itself is wrong.
    known, found = run_folder.flatten(config.to_dict()), []
    for word in given:
        key, _, value = word.removeprefix("--config.").partition("=")
        if any(one.startswith(f"{key}.") for one in known):
            found.append(f"--config.{key}={value}: {key!r} is a group of keys; set one of them")
        elif key not in known:
            found.append(_unknown(key, known))
        elif (parsed := _parse(value, known[key])) is None:
            found.append(f"{word}: expected {TYPES[type(known[key])]}")
        elif parsed is not known[key]:
            config.update_from_flattened_dict({key: parsed})
    return "; ".join([*found, *mistakes(config)] if found else [])


def _parse(text: str, before: Any) -> Any:
    """The value that a flag's text stands for; None if it is not of the type of `before`.

    Values that only absl can parse are left as they were.
    """
    try:
        if isinstance(before, bool):
            return text.lower() in BOOLEANS[::2] if text.lower() in BOOLEANS else None
        return type(before)(text) if isinstance(before, int | float | str) else before
    except ValueError:
        return None


def _of_type(key: str, value: Any, before: Any) -> str:
    """What is wrong with the type of a key's value; empty if nothing is."""
    if isinstance(before, tuple):
        is_list = isinstance(value, tuple | list)
        good = is_list and all(isinstance(one, str) for one in value)
        return "" if good else f"config.{key}={value!r:.60}: expected a list of texts"
    if before is None or type(value) is type(before):
        return ""
    if isinstance(before, float) and type(value) is int and abs(value) <= sys.float_info.max:
        return ""
    return f"config.{key}={value!r:.60}: expected {TYPES[type(before)]}"


def _unknown(key: str, known: dict[str, Any]) -> str:
    """Says that there is no such key, and which one may have been meant."""
    last = key.rpartition(".")[-1]
    same_name = [one for one in known if one.rpartition(".")[-1] == last]
    nearest = same_name or difflib.get_close_matches(key, known, n=1)
    if not nearest:
        by_name = {one.rpartition(".")[-1]: one for one in known}
        nearest = [by_name[name] for name in difflib.get_close_matches(last, by_name, n=1)]
    hint = f"did you mean {nearest[0]!r}?" if nearest else "see experiments/default.py"
    return f"no config key {key!r}: {hint}"
