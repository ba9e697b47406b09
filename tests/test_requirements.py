"""The packages: every one has a reason, and the lock files agree with the lists."""

import importlib.metadata
import os
import re
import subprocess

import pytest
from packaging.requirements import Requirement

from tests.command import ROOT
from tests.test_house import PRODUCT, imports

INSTALLED = ("requirements", "requirements-docs", "requirements-dev")  # Here, without a GPU.
LISTS = (*INSTALLED, "requirements-notebooks", "requirements-gpu", "requirements-gpu-cuda12")


def listed(name):
    """Returns the requirements of a list, and the reason of each."""
    lines = (ROOT / f"{name}.in").read_text().splitlines()
    pairs = [line.split("  # ") for line in lines if not line.startswith("#")]
    return {Requirement(text): reason for text, reason in pairs}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name):
    """Returns the requirements of a lock file, and the hashes of each."""
    text = (ROOT / f"{name}.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {Requirement(line.split("--hash")[0].strip()): line.count("--hash") for line in lines}


@pytest.mark.parametrize("name", LISTS)
def test_the_lock_pins_what_the_list_names(name):
    """`make lock` mends it."""
    made = locked(name)
    pins = {(canonical(one.name), str(one.specifier)) for one in made}
    for one in listed(name):
        assert (canonical(one.name), str(one.specifier)) in pins, one
    # Nothing is installed without being compared with its sha256.
    assert all(made.values())
    assert all(str(one.specifier).startswith("==") for one in made)


@pytest.mark.parametrize(
    ("lower", "name"),
    [*(("requirements", name) for name in LISTS[1:]), ("requirements-dev", LISTS[2])],
)
def test_all_locks_pin_the_same_versions(lower, name):
    """`make test` and `make notebooks` install into one environment."""
    base, more = (
        {(canonical(one.name), str(one.marker)): str(one.specifier) for one in locked(lock)}
        for lock in (lower, name)
    )
    common = base.keys() & more.keys()
    assert common and all(base[one] == more[one] for one in common)


def test_the_lock_has_what_the_listed_packages_need():
    """Their own metadata, of the versions that are installed here, is the oracle."""
    pins = {canonical(one.name) for name in INSTALLED for one in locked(name)}
    queue, seen = [canonical(one.name) for name in INSTALLED for one in listed(name)], set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonical(needed.name) in pins, f"{name} needs {needed.name}"
                queue.append(canonical(needed.name))


@pytest.mark.parametrize(("told", "compiles"), [("1", True), ("", False)])
def test_packages_are_compiled_where_python_may_not_keep_what_it_compiles(told, compiles):
    command = ["make", "--dry-run", "--always-make", ".venv/setup.stamp"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": told}
    shown = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    assert shown.count("uv pip install") == 2
    assert shown.count("--compile-bytecode") == 2 * compiles


@pytest.mark.slow
def test_every_package_that_a_file_imports_is_listed():
    modules = {module.split(".")[0] for path in PRODUCT for module in imports(path) if module}
    packages = importlib.metadata.packages_distributions()
    used = {canonical(name) for one in modules for name in packages.get(one, ())}
    own, of_docs = (
        {canonical(one.name) for one in listed(name)}
        for name in ("requirements", "requirements-docs")
    )
    assert used - own - of_docs == set()
    # The others say who needs them.
    for name in own - used:
        reasons = [
            why for one, why in listed("requirements").items() if canonical(one.name) == name
        ]
        assert re.search(r"optuna|tensorflow-datasets", " ".join(reasons)), name
