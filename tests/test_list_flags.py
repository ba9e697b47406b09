"""Flags of config keys that take several values: text, split at commas, for every such key."""

import pytest
from absl import flags
from ml_collections import config_flags

import run_folder
from config import list_flags
from experiments import default

DEFAULTS = run_folder.flatten(default.get_config().to_dict())
KEYS = [key for key, value in DEFAULTS.items() if isinstance(value, tuple)]
TEXTS = {
    "2024": ("2024",),
    "1,2": ("1", "2"),
    "01,1e3,0x10": ("01", "1e3", "0x10"),
    "True": ("True",),
    "None": ("None",),
    "my tag": ("my tag",),
    "my tag, another one": ("my tag", "another one"),
    "it's": ("it's",),
    "(a, b)": ("(a", "b)"),
    "['a']": ("['a']",),
    "{}": ("{}",),
    "__import__('os')": ("__import__('os')",),
    "a=b": ("a=b",),
    "#1": ("#1",),
    "naïve ✓": ("naïve ✓",),
    "a,,b,": ("a", "b"),
    "": (),
    " , ": (),
}


def parsed(*words):
    """Returns the config that flags make of the experiment bigram."""
    list_flags.register()
    argv = ["main.py", "--config=experiments/bigram.py", *words]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return values["config"].value


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_list_is_text_split_at_commas_and_never_evaluated(key, text):
    flat = run_folder.flatten(parsed(f"--config.{key}={text}").to_dict())
    assert flat[key] == TEXTS[text]


def test_a_flag_may_be_repeated():
    words = ["--config.tracking.tags=a,2", "--config.tracking.tags", "my tag"]
    assert parsed(*words).tracking.tags == ("a", "2", "my tag")


def test_keys_of_one_text_keep_it():
    words = ["--config.tracking.name=1,2", "--config.tracking.notes=None"]
    tracking = parsed(*words).tracking
    assert (tracking.name, tracking.notes) == ("1,2", "None")
