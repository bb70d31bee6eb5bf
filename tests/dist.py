"""Install the built wheel into an empty environment and try it: ``make dist``.

The wheel is installed without constraints and without extras. What a new user runs in the first
minute must work there: a phantom, its ingest, T2, maps, and a look at the lake.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

DIST = Path(__file__).parents[1] / "dist"

COMMANDS = (
    "phantom delivery --exams 4 --shape 24x64x64",
    "ingest delivery --lake oai.lake --masks delivery/truth",
    "run t2 --lake oai.lake",
    "run sphere --lake oai.lake",
    "run region --lake oai.lake",
    "info oai.lake",
    "validate oai.lake",
)


def main() -> int:
    """Install, run, report; return the exit code of the first command that fails."""
    (wheel,) = DIST.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        env = Path(folder) / "venv"
        venv.create(env, with_pip=True)
        print(f"installing {wheel.name} into an empty environment", flush=True)
        pip = [env / "bin" / "python", "-m", "pip", "install", "--quiet", str(wheel)]
        subprocess.run(pip, check=True, cwd=folder)
        for command in COMMANDS:
            print(f"$ qmri-lake {command}", flush=True)
            ended = subprocess.run(
                [env / "bin" / "qmri-lake", *command.split()], cwd=folder, check=False
            )
            if ended.returncode:
                return ended.returncode
    print(f"{wheel.name} works in an empty environment")
    return 0


if __name__ == "__main__":
    sys.exit(main())
