"""A script that starts a cluster without the guard of `__main__` gets one line of error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import array_lake

USE = """
import sys
import qmri_lake as ql

def work():
    lake = ql.open_lake(sys.argv[1])
    print(lake.run("t2", within="all", cluster="cpu").counts["done"])

"""
UNGUARDED = {
    "a line": "work()\n",
    "a block": "for _ in range(1):\n    work()\n",
    "another condition": "if len(sys.argv) > 1:\n    work()\n",
}


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    array_lake(folder / "x.lake", 2)
    (folder / "script.py").write_text(USE + code)
    command = [sys.executable, "script.py", "x.lake"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", UNGUARDED.values(), ids=UNGUARDED)
def test_script__without_the_guard_is_refused_in_one_line(tmp_path: Path, code: str) -> None:
    done = run(tmp_path, code)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.strip().splitlines()[-1]
    line = (USE + code).splitlines().index(code.splitlines()[-1]) + 1
    assert f"a local cluster starts processes, and each of them would run line {line} again" in last
    assert '(expected this line inside `if __name__ == "__main__":`)' in last


@pytest.mark.slow
def test_script__with_the_guard_runs(tmp_path: Path) -> None:
    done = run(tmp_path, 'if __name__ == "__main__":\n    work()\n')
    assert (done.returncode, done.stdout.strip()) == (0, "2")
