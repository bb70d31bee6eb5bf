"""What an import costs: nothing heavy before somebody needs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.fixtures import array_lake

HEAVY = ("torch", "tensorflow", "keras", "monai", "SimpleITK", "cupy", "intake")

REPORT = """
import json, sys, time
print(json.dumps([time.process_time(), [n for n in {heavy} if n in sys.modules]]))
"""


def _cpu_seconds_and_heavy(code: str, *, tries: int = 1) -> tuple[float, list[str]]:
    """Run in fresh processes: the least CPU of all tries, interpreter included; what was loaded."""
    results = []
    for _ in range(tries):
        done = subprocess.run(
            [sys.executable, "-c", code + REPORT.format(heavy=HEAVY)],
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
    return min(cpu for cpu, _ in results), results[0][1]


def test_import__is_quick_and_light(judge):
    alone, heavy = _cpu_seconds_and_heavy("import qmri_lake", tries=3)
    used, more = _cpu_seconds_and_heavy("import qmri_lake as ql; ql.open_lake, ql.fit_t2", tries=3)
    judge(
        "import qmri_lake",
        required="under 2.5 s CPU, without " + ", ".join(HEAVY),
        measured=f"{alone:.2f} s ({used:.2f} s with what a session needs); "
        + (", ".join(heavy + more) or "none of them"),
        passed=max(alone, used) < 2.5 and not heavy and not more,
    )


def test_open_lake__imports_nothing_heavy(tmp_path):
    array_lake(tmp_path / "small.lake", 2)
    code = f"import qmri_lake as ql; lake = ql.open_lake({str(tmp_path / 'small.lake')!r}); "
    use = "repr(lake); lake.cohort('knee == \\'right\\'').require('msme/image'); lake.load('msme')"
    _, heavy = _cpu_seconds_and_heavy(code + use)
    assert heavy == []


@pytest.mark.parametrize("module", ["catalog", "run", "validate"])
def test_import__of_a_module_is_light(module):
    _, heavy = _cpu_seconds_and_heavy(f"import qmri_lake.{module}")
    assert heavy == (["intake"] if module == "catalog" else [])
