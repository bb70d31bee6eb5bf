"""Pipelines as their users run them: scripts, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PIPELINES = Path(__file__).parents[2] / "pipelines"


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a pipeline that must end well; return what it printed."""
    done = subprocess.run(
        [sys.executable, PIPELINES / name, *arguments],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done
