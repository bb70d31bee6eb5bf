"""The public base class of tests of steps: passed by T2, failed by steps with faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.execution.step import Step, temporary_steps
from qmri_lake.lake import Lake
from qmri_lake.testing import StepTests
from tests.fixtures import array_lake

WRITES = [ql.Variable("msme", "test_sum", (), "float32", "Sum of the first echo")]


class TestT2(StepTests):
    step = "t2"
    parameters = {"within": "all", "r2_min": None}  # noqa: RUF012
    session = staticmethod(ql.fit_t2)

    @pytest.fixture
    def lake(self, tmp_path: Path) -> Lake:
        return array_lake(tmp_path / "a.lake", 3, (3, 5, 4))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with temporary_steps():
        yield array_lake(tmp_path / "a.lake", 3, (3, 5, 4))


def suite_of(step: Step, *session: Any) -> StepTests:
    return type("Tests", (StepTests,), {"step": step, "session": session[0] if session else None})()


def good(msme: xr.Dataset) -> Any:
    return {"test_sum": msme["image"].isel(echo=0).sum().astype("float32")}


def sums(msme: xr.Dataset) -> xr.Dataset:
    image = msme["image"].isel(echo=0)
    return xr.Dataset({"test_sum": image.sum(("slice", "row", "column")).astype("float32")})


def test_step_tests__find_a_step_that_fails(lake: Lake) -> None:
    def bad(msme: xr.Dataset) -> Any:
        raise ZeroDivisionError("of course")

    tests = suite_of(ql.step(reads={"msme": ["image"]}, writes=WRITES)(bad))
    with pytest.raises(AssertionError, match="of course"):
        tests.test_run__results_have_the_declared_dims_dtypes_and_ranges(lake)


def test_step_tests__find_a_step_that_returns_nothing(lake: Lake) -> None:
    tests = suite_of(ql.step(reads={"msme": ["image"]}, writes=WRITES, name="e")(lambda msme: {}))
    with pytest.raises(AssertionError, match="all results are fill values"):
        tests.test_run__results_have_the_declared_dims_dtypes_and_ranges(lake)


def test_step_tests__find_a_step_that_remembers_other_exams(lake: Lake) -> None:
    calls: list[int] = []

    def counting(msme: xr.Dataset) -> Any:
        calls.append(1)
        return {"test_sum": np.float32(len(calls))}

    tests = suite_of(ql.step(reads={"msme": ["image"]}, writes=WRITES)(counting))
    with pytest.raises(AssertionError, match="msme/test_sum"):
        tests.test_run__a_single_exam_has_the_result_of_all(lake)


def test_step_tests__find_recorded_parameters_that_change(lake: Lake) -> None:
    numbers = iter(range(9))
    step = ql.step(
        reads={"msme": ["image"]},
        writes=WRITES,
        recorded_parameters=lambda **_: {"now": next(numbers)},
    )(good)
    with pytest.raises(AssertionError):
        suite_of(step).test_run__a_second_run_has_nothing_to_compute(lake)


@pytest.mark.slow
def test_step_tests__find_faults_of_session_functions(lake: Lake) -> None:
    step = ql.step(reads={"msme": ["image"]}, writes=WRITES)(good)
    cases = [
        ("test_session__is_lazy", lambda ds: sums(ds).compute(), "before values were requested"),
        ("test_session__equals_the_run", lambda ds: 2 * sums(ds), "msme/test_sum"),
        ("test_session__equals_the_run", lambda ds: sums(ds).astype("f8"), "msme/test_sum"),
        (
            "test_session__does_not_depend_on_chunks",
            lambda ds: sums(ds) + len(ds["image"].chunks[2]),
            "msme/test_sum",
        ),
        ("test_session__equals_the_run", lambda ds: ds[["image"]], "no variable of the step"),
    ]
    for name, session, message in cases:
        with pytest.raises(AssertionError, match=message):
            getattr(suite_of(step, staticmethod(session)), name)(lake)
    with pytest.raises(pytest.skip.Exception, match="no session function"):
        suite_of(step).test_session__is_lazy(lake)


@pytest.mark.slow
def test_testing__is_not_imported_with_the_package() -> None:
    code = (
        "import sys, qmri_lake as ql; ql.open_lake; ql.step; "
        "print('pytest' in sys.modules, 'qmri_lake.testing' in sys.modules); "
        "import qmri_lake.testing; print('pytest' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
