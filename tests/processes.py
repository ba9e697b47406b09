"""Starts several processes of one run on this machine, as a launcher does on many."""

import os
import socket
import subprocess
import sys

import run_folder
from tests.command import OF_A_COMMAND, ROOT

ON_FOUR = (
    *("--config.train.batch_size=8", "--config.train.precision=float32"),
    *("--config.mesh.data=2", "--config.mesh.fsdp=2"),
)
SMOKE = ("--config=gpt2:smoke", *ON_FOUR)
SHORT = ("--config=self_attention:smoke", *ON_FOUR)  # It compiles faster.
# Flags of a run that is stopped: the learning rate is the same whatever the number of steps.
ENDLESS = (
    *("--config.checkpoint.every_steps=10", "--config.eval.every_steps=0"),
    *("--config.sample.every_steps=0", "--config.optimizer.learning_rate=0.01"),
    "--config.optimizer.final_learning_rate=0.01",
)


CLOCK = ("seconds", "train/tokens_per_second")


def lines(workdir):
    """Returns the record of a run by step, without what a clock measures."""
    return {
        line["step"]: {key: value for key, value in line.items() if key not in CLOCK}
        for line in run_folder.read_lines(workdir / run_folder.METRICS)
    }


def free_port():
    """Returns a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Processes:
    """Processes of `main.py` with the same flags; `each` has further flags for each of them.

    Or of `commands`, one each.
    """

    def __init__(self, count, *flags, devices=1, each=None, commands=None, **environment):
        commands = commands or [(sys.executable, "main.py")] * count
        joined = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
        variables = os.environ | {"JAX_NUM_CPU_DEVICES": f"{devices}", "WANDB_MODE": "disabled"}
        # JAX has set its level of logging in this process.
        variables |= {"TF_CPP_MIN_LOG_LEVEL": "2", **environment}
        self.all = [
            subprocess.Popen(
                [
                    *(*commands[number], *joined, f"--process_id={number}", *flags),
                    *(each[number] if each else ()),
                ],
                cwd=ROOT,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def wait(self, without=()):
        """Returns (exit code, standard output, standard error) of each but those `without`."""
        try:
            return [
                (process.returncode, out, err)
                for number, process in enumerate(self.all)
                if number not in without
                for out, err in [process.communicate(timeout=OF_A_COMMAND)]
            ]
        finally:
            for process in self.all:
                process.kill()
                process.wait()
