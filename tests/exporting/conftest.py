"""A small lake that no test of exports changes."""

from __future__ import annotations

import pytest

import qmri_lake as ql
from tests.exporting.lakes import small_lake


@pytest.fixture(scope="session")
def export_lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    return small_lake(tmp_path_factory.mktemp("exported") / "oai.lake")
