"""Test the core on the newest Python there is, with the newest libraries: no constraints, no torch.

``python tests/newest.py`` makes ``.venv-newest`` and runs there the tests of packages that need
neither torch nor TensorFlow, except those marked ``slow`` or ``accept``. Their process time is
printed; it should be at most five minutes. It uses only the standard library of Python 3.11.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv-newest"
STAMP = VENV / ".installed"
CORE = (
    "cli",
    "core",
    "exporting",
    "execution",
    "image_files",
    "ingestion",
    "lake",
    "masks",
    "oai",
    "relaxometry",
    "schema",
    "statistics",
    "steps",
    "store",
    "surface",
)
"""Folders of tests. The tests of single modules, next to this file, are added to them."""
LIMIT = 300
"""Process time of all tests, with their subprocesses [s]."""
QUERY = (
    "import json, sys, venv, ensurepip; "
    "print(json.dumps([*sys.version_info[:3], sys.version_info.releaselevel]))"
)


def pythons() -> Iterator[Path]:
    """Yield every python3.x of the PATH, and those that pyenv has."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True)
        folders += sorted(Path(done.stdout.strip()).glob("versions/*/bin"))
    for folder in folders:
        for path in folder.glob("python3.*"):
            if path.name.removeprefix("python3.").isdigit():
                yield path


def version(python: Path) -> tuple[int, ...] | None:
    """Return the version of a Python; None if it doesn't start, or is not released yet."""
    done = subprocess.run([python, "-c", QUERY], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    *numbers, level = json.loads(done.stdout)
    return tuple(numbers) if level == "final" else None


def install(newest: Path) -> Path:
    """Make the environment, unless it is up to date; return its Python."""
    python = VENV / "bin" / "python"
    project = ROOT / "pyproject.toml"
    installed = python.exists() and STAMP.exists()
    fresh = installed and STAMP.stat().st_mtime >= project.stat().st_mtime
    if not (fresh and version(python) == version(newest)):
        subprocess.run([newest, "-m", "venv", "--clear", VENV], check=True)
        shutil.rmtree(ROOT / "build", ignore_errors=True)  # modules of an earlier state
        # Not editable: the metadata of the package, with its steps, is then that of this
        # environment alone.
        subprocess.run([python, "-m", "pip", "install", "--quiet", ".[test]"], cwd=ROOT, check=True)
        STAMP.touch()
    return python


def process_time() -> float:
    """Return the process time of all subprocesses that have ended [s]."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Make the environment, run the tests, print their process time; return pytest's exit code."""
    found = [(known, path) for path in set(pythons()) if (known := version(path)) is not None]
    known, newest = max(found, default=((3, 11), Path()))
    if known[:2] <= (3, 11):
        print("no Python later than 3.11 here: the newest one is not tested")
        return 0
    print(f"Python {'.'.join(map(str, known))}: {newest}", flush=True)
    options = ["-m", "not accept and not slow", "--durations=15", "-p", "no:cacheprovider"]
    folders = [f"tests/{name}" for name in CORE]
    modules = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_*.py"))
    command = [install(newest), "-m", "pytest", *options, *folders, *modules]
    # Subprocesses that start in another folder import the package from here, too.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QMRI_LAKE_TESTS_MAY_LACK": "1"}
    start = process_time()
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    seconds = process_time() - start
    print(f"process time, with subprocesses: {seconds:.0f} s (limit {LIMIT} s)")
    if seconds > LIMIT:  # reported only: a busy machine needs more
        print("Make tests faster; mark those `slow` that don't depend on versions of libraries.")
    return code


if __name__ == "__main__":
    sys.exit(main())
