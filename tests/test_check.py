"""Checks of a config: each value is accepted, or one message names it; there is no traceback."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_folder
from config import check
from experiments import bigram, default, gpt2
from runtime.errors import UserError

DEFAULTS = run_folder.flatten(default.get_config().to_dict())
VALUES = {
    int: st.integers(-(2**70), 2**70) | st.integers(-3, 3),
    float: st.floats() | st.floats(-2, 2),
    bool: st.booleans(),
    str: st.text(max_size=20),
    tuple: st.lists(st.text(max_size=5), max_size=3).map(tuple),
}


def config_with(key, value):
    config = gpt2.get_config("smoke")
    config.update_from_flattened_dict({key: value})
    return config


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_value_of_the_right_type_is_accepted_if_and_only_if_it_is_in_range(data):
    key = data.draw(st.sampled_from(sorted(DEFAULTS)))
    value = data.draw(VALUES[type(DEFAULTS[key])])
    found = check.find_errors(config_with(key, value))
    inside = key not in check.RANGES or check.RANGES[key].contains(value)
    if not inside:
        # One message, with the key and its value.
        (message,) = found
        assert message.startswith(f"--config.{key}={value}: expected ")
    for message in found:
        assert "\n" not in message.replace(str(value), "")
    if isinstance(value, float) and not math.isfinite(value):
        assert key not in check.RANGES or found


@pytest.mark.parametrize("key", sorted(check.RANGES))
@pytest.mark.parametrize("value", [-1, 2**31, 2**70])
def test_one_wrong_value_has_one_message(key, value):
    kind = type(DEFAULTS[key])
    found = check.find_errors(config_with(key, kind(value)))
    assert len(found) == (not check.RANGES[key].contains(kind(value)))


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(check.RANGES)), st.just(-2), min_size=1))
def test_all_errors_are_reported_together(wrong):
    config = gpt2.get_config("smoke")
    config.update_from_flattened_dict(
        {key: type(DEFAULTS[key])(value) for key, value in wrong.items()}
    )
    found = check.find_errors(config)
    assert [message.split("=")[0] for message in found] == [
        f"--config.{key}" for key in check.RANGES if key in wrong
    ]


def test_every_number_has_a_range():
    # inference/ checks the ranges for sampling; `stage` only sorts a table.
    elsewhere = {"sample.temperature", "sample.top_k", "sample.top_p", "tracking.stage"}
    numbers = {key for key, value in DEFAULTS.items() if type(value) in (int, float)}
    assert numbers - elsewhere == set(check.RANGES)


@pytest.mark.parametrize("config", [default.get_config(), bigram.get_config(), gpt2.get_config()])
def test_the_experiments_have_no_errors(config):
    assert check.find_errors(config) == []


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(DEFAULTS)), st.text(max_size=12))
def test_any_text_for_any_flag_is_accepted_or_named(key, text):
    argv = ["--config=experiments/gpt2.py:smoke", f"--config.{key}={text}"]
    explained = check.explain_flags(argv)
    kind = type(DEFAULTS[key])
    try:
        parses = kind not in (int, float) or kind(text) is not None
    except ValueError:
        parses = False
    if kind in (int, float):
        assert (explained == "") == parses
        assert parses or f"--config.{key}={text}: expected {check.TYPES[kind]}" in explained


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(codec="ascii", exclude_characters="="), min_size=1, max_size=20))
def test_an_unknown_key_is_named(key):
    explained = check.explain_flags(["--config=experiments/bigram.py:smoke", f"--config.{key}=1"])
    if key not in DEFAULTS and not any(known.startswith(f"{key}.") for known in DEFAULTS):
        assert f"no config key {key!r}" in explained


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.batchsize", "train.batch_size"),
        ("weight_decay", "optimizer.weight_decay"),
        ("modle.num_heads", "model.num_heads"),
    ],
)
def test_the_nearest_key_is_named(key, nearest):
    explained = check.explain_flags(["--config=experiments/bigram.py", f"--config.{key}=1"])
    assert explained == f"no config key {key!r}: did you mean {nearest!r}?"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(JSON)
def test_any_json_for_a_config_is_refused_with_a_message(content):
    if isinstance(content, dict) and not run_folder.flatten(content):
        # A config without keys: all take their defaults.
        assert check.from_json(content, Path("run")).to_dict() == default.get_config().to_dict()
        return
    with pytest.raises(UserError, match=r"config\.json"):
        check.from_json(content, Path("run"))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(DEFAULTS)), JSON)
def test_any_json_for_a_key_is_accepted_or_refused(key, value):
    content = json.loads(gpt2.get_config("smoke").to_json())
    *groups, last = key.split(".")
    inner = content
    for group in groups:
        inner = inner[group]
    inner[last] = value
    try:
        config = check.from_json(content, Path("run"))
    except UserError:
        return
    accepted = run_folder.flatten(json.loads(config.to_json()))[key]
    is_empty = isinstance(value, dict) and not run_folder.flatten(value)  # Same as a missing key.
    assert accepted == (json.loads(json.dumps(DEFAULTS[key])) if is_empty else value)


def test_a_config_survives_its_file():
    for preset in ("", "smoke", "baby"):
        config = gpt2.get_config(preset)
        config.tracking.tags = ("a", "b")
        again = check.from_json(json.loads(config.to_json()), Path("run"))
        assert again.to_dict() == config.to_dict()
