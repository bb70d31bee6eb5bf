"""Fixtures of all tests: real data, knees to train on, and the judge of the acceptance table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# As the command line does, and before torch is imported: two test processes of two threads each
# would spend most of their time in waiting for one another.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import qmri_lake as ql
from tests.segmentation.trainings import lake_with_references

Judge = Callable[..., None]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that is not part of the project."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("QMRI_LAKE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set QMRI_LAKE_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def training_lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    """Six small knees with references, opened to read."""
    url = lake_with_references(tmp_path_factory.mktemp("training")).url
    return ql.open_lake(url, mode="r")


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Record a line of the acceptance table, and fail the test if it is missed.

    ``judge("T2 / optimum", required="0 of 12,000 worse", measured="0", passed=True)``. Every test
    that asks for this fixture is run by ``make accept``; those marked ``accept`` only there.
    """

    def record(line: str, *, required: str, measured: str, passed: bool) -> None:
        request.node.user_properties.append(("judged", (line, required, measured, bool(passed))))
        assert passed, f"{line}: required {required}; measured {measured}"

    return record
