"""Starts several processes of one run on this machine, as a launcher does on many."""

import os
import socket
import subprocess
import sys

from tests.command import OF_A_COMMAND, ROOT


def free_port():
    """Returns a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Processes:
    """Processes of `main.py` with the same flags; `each` has further flags for each of them."""

    def __init__(self, count, *flags, devices=1, each=None, **environment):
        joined = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
        variables = os.environ | {"JAX_NUM_CPU_DEVICES": f"{devices}", "WANDB_MODE": "disabled"}
        # JAX has set its level of logging in this process.
        variables |= {"TF_CPP_MIN_LOG_LEVEL": "2", **environment}
        self.all = [
            subprocess.Popen(
                [
                    *(sys.executable, "main.py", *joined, f"--process_id={number}", *flags),
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
