from __future__ import annotations

from pathlib import Path

import pytest

from qmri_lake.phantom import Archive, write_archive

SHAPE = (24, 64, 64)


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Four exams, exactly exponential and noise-free MSME."""
    out: Path = tmp_path_factory.mktemp("phantom") / "archive"
    return write_archive(out, exams=4, shape=SHAPE, signal="mono", msme_noise=0)
