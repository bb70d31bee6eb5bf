"""Steps of other packages, found by their entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import array_lake

STEP = '''
"""A step of another package."""
import qmri_lake as ql

@ql.step(
    reads={"msme": ["image"]},
    writes=[ql.Variable("msme", "brightness", (), "float32", "Mean signal of the first echo")],
)
def their_step(msme, *, gain=1.0):
    return {"brightness": gain * msme["image"].isel(echo=0).mean()}
'''
LIST = "from qmri_lake.execution.step import find_step; find_step('no_such_step')"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two installed distributions: one works, one fails when it is imported."""
    site = tmp_path_factory.mktemp("site")
    for name, code in (("their_step", STEP), ("broken_step", "import no_such_dependency\n")):
        (site / f"{name}_module.py").write_text(code)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[qmri_lake.steps]\n{name} = {name}_module\n")
    return site


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},
    )


def test_run__a_step_of_an_installed_package(installed: Path, tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    command = ("-m", "qmri_lake.cli", "run", "their_step", "--lake", lake.url)
    done = run(installed, *command, "--set", "gain=2.0")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "their_step: 2 done" in done.stdout
    group = lake.refresh().root["msme"]
    for row in range(2):
        image = group["image"][row, 0, : 5 - row % 2]
        assert group["brightness"][row] == pytest.approx(2 * image.mean(), rel=1e-5)
    assert lake.runs()["step"].iloc[-1] == "their_step"
    # The broken one warns, once, and does not stop the run.
    warning = "step 'broken_step' cannot be imported from broken_step_module"
    assert done.stderr.count(warning) == 1, done.stderr


@pytest.mark.slow
def test_run__a_broken_step_is_an_error_only_if_requested(installed: Path, tmp_path: Path) -> None:
    lake = array_lake(tmp_path / "a.lake", 2)
    done = run(installed, "-m", "qmri_lake.cli", "run", "broken_step", "--lake", lake.url)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if "is installed but" in line]
    assert "step 'broken_step' is installed but cannot be imported" in error
    assert "ModuleNotFoundError: No module named 'no_such_dependency'" in error
    assert "Repair or uninstall the package that provides it." in error
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_find_step__lists_installed_steps(installed: Path) -> None:
    done = run(installed, "-c", LIST)
    error = done.stderr.splitlines()[-1]
    assert "no step 'no_such_step' (expected one of " in error
    names = error.partition("expected one of ")[2].partition(")")[0].split(", ")
    assert "their_step" in names
    assert "t2" in names
    assert "broken_step" not in names
