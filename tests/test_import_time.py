"""What an import costs: nothing heavy before somebody needs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.fixtures import array_lake

pytestmark = pytest.mark.slow  # its subprocesses

HEAVY = ("torch", "tensorflow", "keras", "monai", "SimpleITK", "cupy", "intake")

REPORT = """
import json, sys, time
print(json.dumps([time.process_time(), [n for n in {heavy} if n in sys.modules]]))
"""


def _cpu_seconds_and_heavy(
    code: str, *, tries: int = 1, heavy: tuple[str, ...] = HEAVY
) -> tuple[float, list[str]]:
    """Run in fresh processes: the least CPU of all tries, interpreter included; what was loaded."""
    results = []
    for _ in range(tries):
        done = subprocess.run(
            [sys.executable, "-c", code + REPORT.format(heavy=heavy)],
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
    return min(cpu for cpu, _ in results), results[0][1]


NEEDED = "import qmri_lake as ql; ql.open_lake, ql.fit_t2"
"""What a session needs."""


@pytest.mark.parametrize("code", ["import qmri_lake", NEEDED])
def test_import__is_light(code):
    _, heavy = _cpu_seconds_and_heavy(code)
    assert heavy == []


@pytest.mark.accept
def test_import__is_quick(judge):
    alone, _ = _cpu_seconds_and_heavy("import qmri_lake", tries=3)
    used, _ = _cpu_seconds_and_heavy(NEEDED, tries=3)
    judge(
        "import qmri_lake",
        required="under 2.5 s CPU",
        measured=f"{alone:.2f} s ({used:.2f} s with what a session needs)",
        passed=max(alone, used) < 2.5,
    )


def test_open_lake__imports_nothing_heavy(tmp_path):
    array_lake(tmp_path / "small.lake", 2)
    code = f"import qmri_lake as ql; lake = ql.open_lake({str(tmp_path / 'small.lake')!r}); "
    use = "repr(lake); lake.cohort('knee == \\'right\\'').require('msme/image'); lake.load('msme')"
    # Readers of deliveries, too, are imported when they are used.
    _, heavy = _cpu_seconds_and_heavy(code + use, heavy=(*HEAVY, "pydicom"))
    assert heavy == []


@pytest.mark.parametrize("module", ["catalog", "execution.run", "lake.validation"])
def test_import__of_a_module_is_light(module):
    _, heavy = _cpu_seconds_and_heavy(f"import qmri_lake.{module}")
    assert heavy == (["intake"] if module == "catalog" else [])
