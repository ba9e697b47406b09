"""Settings of a run's mirror in W&B: what the client gets, and what is refused before a run begins.

The client is the real one, its server the one of tests/wandb_server.py.
"""

import os
import subprocess
import sys

import pytest

import harness
import run_folder
from experiments import bigram
from experiments.default import get_config
from runtime.errors import UserError
from tests.command import ROOT, assert_refused
from tests.forked import run
from tests.wandb_server import Server
from tracking import wandb_limits, wandb_settings, wandb_variables
from training import setup

RUN = ROOT / "tests/tracking_run.py"
BIGRAM = "--config=experiments/bigram.py:smoke"
KEY = "a" * 40


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Hides the tester's variables."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


# --- What W&B refuses ----------------------------------------------------------------------------

# A key, a value that W&B refuses, the reason.
REFUSED = [
    ("wandb_project", "", "expected a project's name"),
    ("wandb_project", "me/mine", "its entity"),
    *(("wandb_project", f"a{character}b", "W&B takes none of") for character in "\\#?%:"),
    ("wandb_project", "p" * 129, "has 129 characters: W&B takes 128 at most"),
    ("wandb_entity", "me/mine", "W&B takes none of"),
    ("wandb_entity", "my team", "or blanks in it"),
    ("wandb_entity", "e" * 129, "has 129 characters: W&B takes 128 at most"),
    ("name", "n" * 129, "has 129 characters: W&B takes 128 at most"),
    ("group", "g" * 129, "has 129 characters: W&B takes 128 at most"),
    ("job_type", "j" * 65, "has 65 characters: W&B takes 64 at most"),
    ("tags", "t" * 65, "has 65 characters: W&B takes 64 at most"),
    ("wandb_mode", "onlin", "expected one of offline, online, disabled"),
]


def tracked(key, value):
    config = bigram.get_config("smoke")
    config.tracking[key] = ("fine", value) if key == "tags" else value
    return config


@pytest.mark.parametrize(("key", "value", "reason"), REFUSED)
def test_what_wandb_refuses_names_its_key(key, value, reason):
    with pytest.raises(UserError) as error:
        setup.check_config(tracked(key, value))
    message = str(error.value)
    assert message.startswith(f"--config.tracking.{key}=") and reason in message
    assert "\n" not in message


@pytest.mark.parametrize(("key", "value", "reason"), [case for case in REFUSED if case[1]])
def test_what_wandb_refuses_names_its_variable(key, value, reason, monkeypatch):
    variable = wandb_variables.VARIABLES[key]
    monkeypatch.setenv(variable, f"fine,{value}" if key == "tags" else value)
    with pytest.raises(UserError) as error:
        setup.check_config(wandb_settings.with_environment(get_config(), ()))
    assert str(error.value).startswith(f"{variable}=") and reason in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("WANDB_RUN_ID", "r" * 65, "has 65 characters: W&B takes 64 at most"),
        *(("WANDB_RUN_ID", f"a{character}b", "W&B takes none of") for character in ":;,#?/'\\%"),
        ("WANDB_BASE_URL", "localhost:8080", "expected the server's address, https://HOST"),
        ("WANDB_BASE_URL", "ftp://host", "expected the server's address, https://HOST"),
        ("WANDB_BASE_URL", "http://", "expected the server's address, https://HOST"),
        ("WANDB_BASE_URL", "http://host:port", "expected the server's address, https://HOST"),
        ("WANDB_BASE_URL", "https://wandb.ai", "expected https://api.wandb.ai"),
        ("WANDB_BASE_URL", "https://app.wandb.ai/", "expected https://api.wandb.ai"),
        ("WANDB_BASE_URL", "http://api.wandb.ai", "expected https://api.wandb.ai"),
    ],
)
def test_a_variable_of_the_client_that_it_refuses(variable, value, reason, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as error:
        setup.check_config(bigram.get_config("smoke"))
    assert str(error.value).startswith(f"{variable}=") and reason in str(error.value)


@pytest.mark.slow
def test_all_of_it_is_one_line_before_the_folder_is_touched(tmp_path):
    tags = f"--config.tracking.tags=fine,{'t' * 65}"
    job = {"WANDB_JOB_TYPE": "j" * 65, "WANDB_MODE": "offline"}
    words = [BIGRAM, tags, "--config.train.batch_size=0", f"--workdir={tmp_path / 'run'}"]
    refused = run("main.py", *words, **job)
    for message in ("--config.tracking.tags='ttt", "WANDB_JOB_TYPE='jjj", "batch_size=0: expected"):
        assert_refused(refused, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("off", [{"wandb_mode": "disabled"}, {"sinks": ("tensorboard",)}])
def test_without_wandb_its_limits_do_not_hold(off):
    config = tracked("job_type", "j" * 65)
    config.tracking.update(off)
    setup.check_config(config)


def test_the_clients_own_checks_agree():
    """Its settings take what is at a limit and refuse what is not; it knows the variables."""
    import wandb

    names = {"wandb_project": "project", "tags": "run_tags", wandb_limits.RUN_ID: "run_id"}
    for key, name in names.items():
        limit = wandb_limits.LIMITS[key]
        good, long = "x" * limit.length, "x" * (limit.length + 1)
        wandb.Settings(**{name: (good,) if key == "tags" else good})
        if key != wandb_limits.RUN_ID:  # The server's alone.
            with pytest.raises((wandb.errors.UsageError, ValueError)):
                wandb.Settings(**{name: (long,) if key == "tags" else long})
    for character in wandb_limits.IN_ADDRESS:
        with pytest.raises(wandb.errors.UsageError):
            wandb.Settings(project=f"a{character}b")
    known = set(wandb.Settings.model_fields) | {"dir", "description", "show_run", "run_dir"}
    for name in (*wandb_variables.IGNORED, *wandb_variables.DONE):
        assert name.removeprefix("WANDB_").lower() in known, name


# --- A flag, a variable, a default ----------------------------------------------------------------

VALUES = {
    "wandb_mode": "disabled",
    "wandb_project": "theirs",
    "wandb_entity": "them",
    "name": "1,2",
    "group": "their group",
    "job_type": "None",
    "notes": "why?",
    "tags": ("2024", "my tag"),
}


@pytest.mark.parametrize("key", wandb_variables.VARIABLES)
def test_a_flag_wins_over_a_variable_and_that_over_the_experiment(key, monkeypatch):
    config, value = get_config(), VALUES[key]
    before = config.tracking[key]
    monkeypatch.setenv(wandb_variables.VARIABLES[key], "")
    assert wandb_settings.with_environment(config, ()).tracking[key] == before
    text = " 2024, my tag,\n" if key == "tags" else f"{value}\n"
    monkeypatch.setenv(wandb_variables.VARIABLES[key], text)
    assert wandb_settings.with_environment(config, ()).tracking[key] == value
    chosen = {f"tracking.{key}": before}
    assert wandb_settings.with_environment(config, chosen).tracking[key] == before
    assert config.tracking[key] == before


@pytest.mark.parametrize("key", wandb_settings.OF_SWEEP)
def test_in_a_sweep_its_project_and_owner_win(key, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv(wandb_variables.VARIABLES[key], "of-the-sweep")
    config = wandb_settings.with_environment(get_config(), {f"tracking.{key}"})
    assert config.tracking[key] == "of-the-sweep"


@pytest.mark.parametrize(
    ("given", "mode"), [("dryrun", "offline"), ("run", "online"), ("shared", "online")]
)
def test_other_words_for_a_mode(given, mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", given)
    assert wandb_settings.with_environment(get_config(), ()).tracking.wandb_mode == mode


def test_what_is_made_up_here_is_cut_to_the_limit(tmp_path):
    config = tracked("experiment", f"{'e' * 200}:smoke+")
    workdir = tmp_path / ("w" * 200)
    workdir.mkdir()
    made = wandb_settings.init_arguments(config, workdir, 1)
    assert made["name"] == "w" * 128
    assert made["group"] == "e" * 128
    assert made["tags"] == ["e" * 64, "smoke"]


def environment(server, **more):
    quiet = {"WANDB_BASE_URL": server.url, "WANDB_ERROR_REPORTING": "false"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, **quiet, "WANDB_API_KEY": KEY, "WANDB_MODE": "online", **more}


def mirrored(workdir, variables, *prefix, folder=ROOT):
    """Runs tests/tracking_run.py in a folder; returns what it printed, when its mirror is whole."""
    command = [*prefix, sys.executable, str(RUN), str(workdir), "12"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "W&B failed" not in done.stdout and "did not start" not in done.stdout, done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_server_gets_what_the_variables_say(tmp_path):
    """All at their limits, and with what a file leaves at their ends."""
    said = {
        "WANDB_PROJECT": "p" * 128,
        "WANDB_ENTITY": "e" * 128,
        "WANDB_NAME": "n" * 128,
        "WANDB_RUN_GROUP": "g" * 128,
        "WANDB_JOB_TYPE": "j" * 64,
        "WANDB_TAGS": f"2024, True,my tag,{'t' * 64},",
        "WANDB_NOTES": "a line\nand another",
        "WANDB_RUN_ID": "r" * 64,
        "WANDB_API_KEY": f"{KEY}\n",
    }
    ends = {name: f"{value}\n" for name, value in said.items()}
    with Server() as server:
        mirrored(tmp_path / "run", environment(server, **ends))
    sent = next(variables for name, variables in server.operations if name == "UpsertBucket")
    keys = ("project", "entity", "displayName", "groupName", "jobType", "notes", "name")
    assert [sent[key] for key in keys] == [
        said[f"WANDB_{name}"]
        for name in ("PROJECT", "ENTITY", "NAME", "RUN_GROUP", "JOB_TYPE", "NOTES", "RUN_ID")
    ]
    assert sent["tags"] == ["2024", "True", "my tag", "t" * 64]
    assert len(server.history) == 14


# What the client's documentation lists besides.
HONOURED = (
    *("API_KEY", "BASE_URL", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR", "DOCKER"),
    *("ERROR_REPORTING", "HOST", "IGNORE_GLOBS", "RUN_ID", "SWEEP_ID", "USERNAME", "USER_EMAIL"),
    *("IDENTITY_TOKEN_FILE", "CREDENTIALS_FILE", "INSECURE_DISABLE_SSL", "SWEEP_PARAM_PATH"),
)


@pytest.mark.parametrize("name", HONOURED)
def test_a_variable_reaches_the_client_as_it_is_meant(name, monkeypatch):
    """Without a line end, and with the home folder for ~, which a file of variables keeps."""
    monkeypatch.setenv("HOME", "/my/home")
    is_path = name.endswith(("_DIR", "_FILE"))
    name = f"WANDB_{name}"
    value = "~/x" if is_path else "1"
    meant = "/my/home/x" if is_path else "1"
    given = {name: f" {value}\n", "PATH": " as it is "}
    assert wandb_variables.for_client(given) == {name: meant, "PATH": " as it is "}
    assert wandb_variables.for_client({name: " "}) == {}
    assert wandb_variables.ignored(given) == {}


# Variables with values that the client would not start with.
BAD = {
    "WANDB_CONSOLE": "on",
    "WANDB_RESUME": "always",
    "WANDB_RESUME_FROM": "nothing",
    "WANDB_FORK_FROM": "nothing",
    "WANDB_DIR": "/proc/nothing",
    "WANDB_CONFIG_PATHS": "/nothing.yaml",
    "WANDB_INIT_TIMEOUT": "soon",
    "WANDB_SAVE_CODE": "perhaps",
    "WANDB_ANONYMOUS": "must",
    "WANDB_HTTP_TIMEOUT": "2.5",
    "WANDB_FILE_PUSHER_TIMEOUT": "long",
    "WANDB_HEARTBEAT_SECONDS": "often",
    "WANDB_SYMLINK": "perhaps",
    "WANDB__STATS_SAMPLING_INTERVAL": "0.001",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "x",
}
# Without a line: an empty variable, what a run does in any case, what no run needs.
SILENT = {
    "WANDB_TAGS": "",
    "WANDB_RUN_ID": "",
    "WANDB_SWEEP_ID": " ",
    "WANDB_ENTITY": "",
    "WANDB_HOST": "",
    "WANDB_SILENT": "",
    "WANDB_QUIET": "perhaps",
    "WANDB_DISABLE_CODE": "perhaps",
    "WANDB_DISABLE_GIT": "perhaps",
    "WANDB_DEBUG": "perhaps",
    "WANDB_CORE_DEBUG": "perhaps",
    "WANDB_CACHE_DIR": "/proc/nothing",
    "WANDB_CONFIG_DIR": "/proc/nothing",
    "WANDB_ARTIFACT_DIR": "/proc/nothing",
    "WANDB_USERNAME": "me",
    "WANDB_USER_EMAIL": "me",
    "WANDB_DOCKER": "image",
    "WANDB_IGNORE_GLOBS": "*.nothing",
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_no_variable_loses_the_mirror(mode, tmp_path):
    with Server() as server:
        variables = environment(server, **SILENT, **BAD, WANDB_MODE=mode)
        printed = mirrored(tmp_path / "run", variables)
        assert len(server.history) == (14 if mode == "online" else 0)
    for name in BAD:
        (line,) = [line for line in printed.splitlines() if f"{name} " in line]
        assert line.startswith(("without effect here: ", f"{name} is ignored, for W&B refuses"))
    assert not any(f"{name} " in printed for name in SILENT)
    assert (tmp_path / "run/wandb.json").exists()


@pytest.mark.slow
def test_bytes_that_are_not_utf8_do_not_lose_the_mirror(tmp_path):
    workdir = os.fsencode(tmp_path) + b"/caf\xe9"
    with Server() as server:
        mirrored(os.fsdecode(workdir), environment(server))
        sent = next(variables for name, variables in server.operations if name == "UpsertBucket")
    assert sent["displayName"] == "caf?"


@pytest.mark.long
def test_a_command_and_a_notebook_keep_to_the_same_order(tmp_path, monkeypatch):
    """The run's config has what W&B got; the command is `wandb_mode=disabled` by its flag."""
    said = {"WANDB_MODE": "online", "WANDB_TAGS": "2024", "WANDB_NOTES": "theirs"}
    flags = ["--config.tracking.wandb_mode=disabled", "--config.tracking.notes=", "--config.seed=1"]
    done = run("main.py", BIGRAM, *flags, f"--workdir={tmp_path / 'command'}", **said)
    assert done.returncode == 0, done.stderr
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    changes = {"tracking.wandb_mode": "disabled", "tracking.notes": "", "seed": 1}
    harness.train("bigram:smoke", tmp_path / "notebook", **changes)
    for name in ("command", "notebook"):
        kept = run_folder.read_object(tmp_path / name / "config.json")["tracking"]
        assert (kept["wandb_mode"], kept["notes"], kept["tags"]) == ("disabled", "", ["2024"])
