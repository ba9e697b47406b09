"""Runs a script in a folder, its outputs in files: redirected.py STDOUT STDERR FOLDER SCRIPT."""

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    for descriptor, path in enumerate(sys.argv[1:3], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    os.chdir(sys.argv[3])
    del sys.argv[:4]
    sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
