"""The files of launch/: each starts two local processes with made-up variables of its scheduler."""

import json
import os
import signal
import subprocess

import jsonschema
import pytest
import yaml

from tests.command import OF_A_COMMAND, ROOT, wait_until
from tests.processes import ENDLESS, SHORT, free_port, lines

SRUN = """#!/bin/bash
shift  # srun's own option.
for number in 0 1; do
  SLURM_PROCID=$number SLURM_LOCALID=$number "$@" & pids+=($!)
done
echo "${pids[@]}" > "$PIDS"
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""


@pytest.mark.long
def test_the_slurm_script_resumes_a_job_that_was_stopped(tmp_path):
    """In place of SLURM: two processes with its variables, and commands of its names."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path / "requeued"}\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    variables = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PIDS": str(tmp_path / "pids"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": f"{free_port()}",  # JAX makes its port of it.
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "JAX_NUM_CPU_DEVICES": "2",
        "WANDB_MODE": "disabled",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    workdir = tmp_path / "run"

    def submit(num_steps):
        flags = [*SHORT, *ENDLESS, f"--config.train.num_steps={num_steps}", f"--workdir={workdir}"]
        script = ["bash", ROOT / "launch/slurm.sh", *flags]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(script, env=variables, cwd=tmp_path, text=True, **output)

    job = submit(100_000)
    wait_until(lambda: (workdir / "checkpoints/20").exists() or job.poll() is not None)
    os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGTERM)
    _, error = job.communicate(timeout=OF_A_COMMAND)
    assert job.returncode == 143, error
    assert error.startswith("stopped at step ") and error.count("\n") == 1
    requeued = f"requeue {variables['SLURM_JOB_ID']}\n"
    assert (tmp_path / "requeued").read_text() == requeued
    step = max(lines(workdir))
    again = submit(step + 20)
    shown, error = again.communicate(timeout=OF_A_COMMAND)
    assert (again.returncode, error) == (0, "")
    assert " · 4 x cpu (data 2, fsdp 2), float32 · " in shown
    assert max(lines(workdir)) == step + 20
    assert (tmp_path / "requeued").read_text() == requeued  # It has ended.


JOB_SET = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
SCHEMA = json.loads((ROOT / "tests/fixtures/jobset_schema.json").read_text())


def test_the_job_set_fits_its_schema():
    jsonschema.validate(JOB_SET, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "failurePolicy", "restartStrategy"], "Block"),
        (["spec", "failurePolicy", "restarts"], 3),
        (["spec", "replicatedJobs", 0, "template", "spec", "completions"], "2"),
        (["spec", "replicatedJobs", 0, "name"], None),
        (["kind"], "Job"),
    ],
)
def test_the_schema_finds_mistakes(path, value):
    changed = json.loads(json.dumps(JOB_SET))
    *above, key = path
    place = changed
    for step in above:
        place = place[step]
    place[key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, SCHEMA)


def test_the_job_set_is_of_one_piece():
    """Its numbers and names agree with each other, as the schema can't tell."""
    (job,) = JOB_SET["spec"]["replicatedJobs"]
    of_job = job["template"]["spec"]
    (container,) = of_job["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    name = JOB_SET["metadata"]["name"]
    # JobSet's names of pods: <set>-<job>-<index of job>-<index of pod>.<set>
    assert variables["COORDINATOR"].startswith(f"{name}-{job['name']}-0-0.{name}:")
    assert variables["PROCESSES"] == str(of_job["completions"]) == str(of_job["parallelism"])
    gpus = of_job["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--config.mesh.fsdp={gpus}" in container["args"]
    (shared,) = [one for one in container["volumeMounts"] if one["name"] == "shared"]
    assert any(word.startswith(f"--workdir={shared['mountPath']}/") for word in container["args"])


@pytest.mark.long
def test_the_command_of_the_job_set_starts_a_run_of_two_pods(tmp_path):
    of_pod = JOB_SET["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = of_pod["containers"]
    variables = os.environ | {
        **{one["name"]: one["value"] for one in container["env"]},
        "COORDINATOR": f"127.0.0.1:{free_port()}",
        "JAX_NUM_CPU_DEVICES": "2",
        "WANDB_MODE": "disabled",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    script, name, *_ = container["args"]
    flags = [*SHORT, f"--workdir={tmp_path / 'run'}", "--config.train.num_steps=20"]
    pods = [
        subprocess.Popen(
            [*container["command"], script, name, *flags],
            env=variables | {"JOB_COMPLETION_INDEX": f"{number}"},
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in (0, 1)
    ]
    ended = [(pod, *pod.communicate(timeout=OF_A_COMMAND)) for pod in pods]
    assert [(pod.returncode, error) for pod, _, error in ended] == [(0, "")] * 2
    assert " · 4 x cpu (data 2, fsdp 2), float32 · " in ended[0][1]
    assert max(lines(tmp_path / "run")) == 20
