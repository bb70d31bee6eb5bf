"""A lake that all tests of trained classifiers share, and models of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmri_lake.diagnosis.training import train_classifiers
from qmri_lake.lake import Lake
from tests.diagnosis.judged import judged_lake


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Sixty exams of thirty patients; tests may add predictions."""
    return judged_lake(tmp_path_factory.mktemp("judged") / "oai.lake")


@pytest.fixture(scope="session")
def oa_models(judged: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of OA by thickness, of all three bones, after one epoch."""
    out = tmp_path_factory.mktemp("models") / "oa"
    train_classifiers(judged, "oa", preset="small", out=out, strategies="thickness", epochs=1)
    return out
