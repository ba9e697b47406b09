"""The environment of a command: set to what a run needs, or refused in one line."""

import os
import pwd
import re
import subprocess
import sys

import pytest

import run_folder
from runtime import process
from tests.command import ROOT, assert_refused, run
from tests.test_house import name, sources
from tests.wandb_server import Server

BIGRAM = "--config=experiments/bigram.py:smoke"
OTHER = {
    "jax_default_prng_impl": "rbg",
    "jax_random_seed_offset": "7",
    "jax_legacy_prng_key": "error",
    "jax_numpy_dtype_promotion": "strict",
    "jax_transfer_guard": "disallow",
    "jax_error_checking_behavior_nan": "raise",
}
# Each of JAX's options with another value than a run needs.
SET = {
    name.upper(): OTHER.get(name) or str(int(not needed)) for name, needed in process.NEEDED.items()
}


def losses(workdir):
    lines = run_folder.read_lines(workdir / "metrics.jsonl")
    return [(line["step"], line.get("train/loss"), line.get("val/loss")) for line in lines]


@pytest.mark.long
def test_a_run_has_the_same_numbers_whatever_the_environment_is(tmp_path):
    (tmp_path / "text.txt").write_text("naïve café\n" * 400)
    flags = [BIGRAM, "--config.data.name=text", f"--config.data.path={tmp_path / 'text.txt'}"]
    flags += ["--config.tracking.wandb_mode=disabled", "--config.sample.num_tokens=8"]
    plain = run("main.py", *flags, f"--workdir={tmp_path / 'plain'}")
    assert (plain.returncode, plain.stderr) == (0, "")
    odd = run("main.py", *flags, f"--workdir={tmp_path / 'né'}", PYTHONIOENCODING="ascii", **SET)
    assert odd.returncode == 0, odd.stderr
    assert losses(tmp_path / "né") == losses(tmp_path / "plain")
    assert run_folder.read_json(tmp_path / "né/summary.json")["status"] == "done"
    (warning,) = odd.stderr.splitlines()
    assert all(name in warning for name in process.NEEDED)
    # What standard output can't encode is escaped, in names and in texts.
    assert r"n\xe9" in odd.stdout
    sampling = [f"--workdir={tmp_path / 'né'}", "--prompt=é", "--num_tokens=8", "--temperature=0"]
    text = run("generate.py", *sampling, PYTHONIOENCODING="utf-8").stdout
    escaped = run("generate.py", *sampling, PYTHONIOENCODING="ascii").stdout
    assert "é" in text
    assert escaped == text.encode("ascii", "backslashreplace").decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("JAX_PLATFORMS", "rocket", "JAX_PLATFORMS=rocket: JAX finds no such device (Unable to"),
        ("JAX_PLATFORM_NAME", "rocket", "JAX_PLATFORM_NAME=rocket: JAX finds no such device"),
        ("JAX_NUM_CPU_DEVICES", "0", "JAX_NUM_CPU_DEVICES=0: JAX finds no such device"),
        ("JAX_NUM_CPU_DEVICES", "two", "JAX_NUM_CPU_DEVICES=two: JAX can't start with it"),
        ("JAX_ENABLE_X64", "maybe", "JAX_ENABLE_X64=maybe: JAX can't start with it (invalid"),
        ("JAX_DEFAULT_PRNG_IMPL", "dice", "JAX_DEFAULT_PRNG_IMPL=dice: JAX can't start with it"),
        ("JAX_DEFAULT_DEVICE", "moon", "JAX_DEFAULT_DEVICE=moon: JAX can't start with it"),
        ("JAX_LOGGING_LEVEL", "loud", "JAX_LOGGING_LEVEL=loud: JAX can't start with it"),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true", "fast math hides numbers that are not"),
    ],
)
def test_a_variable_with_which_jax_cannot_start_is_refused(tmp_path, name, value, message):
    result = run("main.py", BIGRAM, f"--workdir={tmp_path / 'run'}", **{name: value})
    assert_refused(result, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_missing_gpu_is_one_line_in_every_command(tmp_path):
    for script in ("generate.py", "evaluate.py"):
        result = run(script, f"--workdir={tmp_path}", JAX_PLATFORMS="tpu,rocket")
        assert_refused(result, "JAX_PLATFORMS=tpu,rocket: JAX finds no such device")
    result = run("ladder.py", "--preset=smoke", f"--workdir={tmp_path}", JAX_ENABLE_X64="maybe")
    assert result.returncode == 2
    assert result.stderr.startswith("error: JAX_ENABLE_X64=maybe: JAX can't start with it")
    assert result.stderr.count("\n") == 1


SCRIPTS = ("main", "ladder", "generate", "evaluate", "export", "report", "sweeps/run")
# Of packages, what is started with -m; W&B's process is started by a run.
MODULES = [
    name(path).removesuffix("/__main__").replace("/", ".")
    for path in sources("tracking", "benchmarks", "tests/faults")
    if '\nif __name__ == "__main__":\n' in path.read_text()
    and path.parent != ROOT
    and path.stem not in ("wandb_process", "victim")
]


def assert_names_the_environment(command, folder, environment=".venv"):
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert_refused(result, "lacks the packages of this program: run ")
    activate = result.stderr.rpartition("source ")[2].strip()
    assert (folder / activate).resolve() == (ROOT / environment / "bin/activate").resolve()


@pytest.mark.parametrize("script", [*SCRIPTS, "sweeps/tune_stages"])
def test_without_the_packages_a_command_names_the_environment(script, tmp_path):
    """-S leaves out the packages, as a Python outside of .venv does."""
    assert_names_the_environment([sys.executable, "-S", str(ROOT / f"{script}.py")], tmp_path)


@pytest.mark.slow
def test_without_the_packages_a_module_names_the_environment():
    assert {"tracking.workspace", "tracking.dashboard", "benchmarks.gpu_parts"} <= set(MODULES)
    for module in MODULES:
        assert_names_the_environment([sys.executable, "-S", "-m", module], ROOT)


@pytest.mark.parametrize("module", ["import_torch", "compare", "growth", "theirs", "variants"])
def test_without_pytorch_a_module_names_its_own_environment(module):
    """In the environment of this test, which has none."""
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    assert_names_the_environment(command, ROOT, ".venv-peers")


# A user without an entry in /etc/passwd, as in a container.
UNKNOWN_USER = (
    ["unshare", "--user", "--map-user=54321"]
    if os.getuid()
    else ["setpriv", "--reuid=54321", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
)
HOME = pwd.getpwuid(os.getuid()).pw_dir


def after_set_up(expression, folder, variables):
    """Returns an expression's value in a new process that has set up its home, and its messages."""
    code = f"import os; from runtime import process as p; p.set_up_home(); print({expression})"
    (folder / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), **variables},
        capture_output=True,
        text=True,
    )
    assert [path.name for path in folder.iterdir()] == ["tmp"]
    assert list((folder / "tmp").iterdir()) == []
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("given", "home"),
    [(None, HOME), ("", HOME), ("relative", HOME), ("~", HOME), ("/proc/nothing", "/proc/nothing")],
)
def test_a_home_is_an_absolute_path(given, home, tmp_path):
    variables = {} if given is None else {"HOME": given}
    assert after_set_up("os.environ['HOME']", tmp_path, variables) == (home, "")


@pytest.mark.parametrize("given", ["", "x", "~/x", "~no-such-user/x", "/proc/nothing/x"])
def test_without_a_folder_that_can_be_written_the_cache_is_temporary(given, tmp_path):
    variables = {"HOME": "/proc/nothing", "XDG_CACHE_HOME": given}
    cache, said = after_set_up("p.cache_dir(), p.cache_dir().is_dir()", tmp_path, variables)
    assert re.fullmatch(rf"{tmp_path}/tmp/{process.NAME}-\w+ True", cache)
    assert said.startswith("no home folder that can be written: ") and said.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("home", ["unknown user", "can't be written"])
def test_without_a_home_folder_a_run_and_its_mirror_are_whole(home, tmp_path):
    """Nothing is written beside the run, no folder ~ above all."""
    tmp_path.chmod(0o777)
    with Server() as server:
        variables = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40}
        variables |= {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false"}
        variables |= {"HOME": "/proc/nothing", "XDG_CACHE_HOME": "x"}
        prefix = []
        if home == "unknown user":
            prefix, _ = UNKNOWN_USER, variables.pop("HOME")
        command = [sys.executable, str(ROOT / "main.py"), "--config=bigram:smoke", "--workdir=run"]
        done = subprocess.run(
            [*prefix, *command, "--config.tracking.log_model=best"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert run_folder.read_json(tmp_path / "run/summary.json")["status"] == "done"
    assert len(server.history) == 8  # Five lines of metrics, three samples.
    assert "W&B has the model" in done.stdout
    assert done.stderr.startswith("no home folder that can be written: ")
    assert done.stderr.count("\n") == 1


def test_a_tilde_after_a_flag_is_the_home_folder(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("ladder.py", "--preset=smoke", "--workdir=~/file", HOME=str(tmp_path))
    assert_refused(result, f"--workdir={tmp_path}/file can't be written")
