"""Atomic writes: the old file or the new one, whatever happens to the writer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.core.atomic_write import atomic_write, atomic_write_bytes, atomic_write_text

SIZE = 1 << 20
WRITER = f"""
import sys
from pathlib import Path
from qmri_lake.core.atomic_write import atomic_write

path = Path(sys.argv[1])
turn = 0
while True:
    turn += 1
    with atomic_write(path) as unfinished, open(unfinished, "wb", buffering=0) as stream:
        for _ in range(16):  # in pieces, so that a kill can come between them
            stream.write(bytes([turn % 256]) * ({SIZE} // 16))
    print(turn, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_atomic_write__killed_at_random_moments_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    rng = np.random.default_rng(7)
    finished = 0
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "1\n"
            time.sleep(float(rng.uniform(0, 0.03)))
            writer.kill()
            finished += len(writer.stdout.readlines())
        assert writer.returncode == -signal.SIGKILL
        data = path.read_bytes()
        assert len(data) == SIZE
        assert len(set(data)) == 1  # of one turn, not of two
        assert {p.name for p in tmp_path.iterdir()} <= {"file.bin", "part.file.bin"}
    assert finished > 0  # some were killed after, some before a rename
    atomic_write_bytes(path, b"new")  # replaces what a killed writer has left
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_atomic_write__an_error_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    atomic_write_text(path, "ä")
    with pytest.raises(UnicodeEncodeError):
        atomic_write_text(path, "half a file \udcff")
    assert path.read_bytes() == "ä".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass  # nothing was written
    assert path.exists()


def test_atomic_write__keeps_the_suffix_that_writers_look_at(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.npz") as unfinished:
        np.savez(unfinished, x=np.arange(3))
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]


def test_atomic_write__unique_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path, unique=True) as one, atomic_write(path, unique=True) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"  # whose block ended last
    assert list(tmp_path.iterdir()) == [path]
