"""Fixtures of the tests of segmentation."""

from __future__ import annotations

import pytest

import qmri_lake as ql
from tests.segmentation.trainings import lake_with_references


@pytest.fixture(scope="session")
def training_lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Six small knees with references, opened to read."""
    url = lake_with_references(tmp_path_factory.mktemp("training")).url
    return ql.open_lake(url, mode="r")
