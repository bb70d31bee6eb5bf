"""The synthetic archive that the pipelines of images share."""

from __future__ import annotations

import pytest

from qmri_lake.phantom import Archive, write_archive


@pytest.fixture(scope="package")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return write_archive(tmp_path_factory.mktemp("oai") / "a", exams=2, shape=(16, 48, 48))
