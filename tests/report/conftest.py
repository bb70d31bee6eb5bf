"""Two knees that went all the way from DICOM to maps, for pictures."""

from __future__ import annotations

import pytest

import qmri_lake as ql
from qmri_lake.phantom import Archive, write_archive


@pytest.fixture(scope="package")
def drawn_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=2, shape=(40, 96, 96))


@pytest.fixture(scope="package")
def drawn_lake(drawn_archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """With images, true masks, T2 and maps; tests may read it alone."""
    path = tmp_path_factory.mktemp("lake") / "oai.lake"
    lake = ql.ingest(drawn_archive.path, path, masks=drawn_archive.truth).lake
    lake.run("t2")
    lake.run("sphere")
    return lake.refresh()
