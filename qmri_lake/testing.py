"""Tests that every step should pass, for authors of steps.

Subclass `StepTests` in a test module and provide a lake with the inputs of the step; pytest then
runs all tests of the class::

    from qmri_lake.testing import StepTests

    class TestBrightness(StepTests):
        step = "brightness"
        parameters = {"gain": 2.0}

        @pytest.fixture
        def lake(self, tmp_path):
            return lake_with_images(tmp_path / "a.lake")

This module is not imported by qmri_lake itself, and needs pytest only in a test run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from qmri_lake.core.array_api import Values
from qmri_lake.execution.step import Step, find_step
from qmri_lake.lake.lake import Lake
from qmri_lake.schema.variable import Variable
from qmri_lake.store.status import State, read_status

__all__ = ["StepTests"]

SessionFunction = Callable[..., xr.Dataset]


class StepTests:
    """Base class for the tests of one step.

    Attributes
    ----------
    step : str or Step
        The step, or its name.
    parameters : mapping
        Values of the step's parameters. Default: empty, so that the step uses its defaults.
    session : callable, optional
        Session function of the step, such as `qmri_lake.fit_t2`. It computes the same results
        lazily from Datasets: one for each group that the step reads, in the order of the groups.
        Wrap it in ``staticmethod``. Without it, the tests of the session function are skipped.
    session_parameters : mapping, optional
        Parameters of `session`. Default: `parameters`.
    rtol, atol : float
        Relative and absolute tolerance between the results of a run and of `session`; `atol` is in
        the unit of the variable. Default: 0, so that the results must be equal.

    Notes
    -----
    A subclass defines the fixture ``lake``: a new lake, open for writing, with the inputs of the
    step for at least two exams. The step must compute a result for at least one of them.
    """

    step: ClassVar[str | Step]
    parameters: ClassVar[Mapping[str, Any]] = {}
    session: ClassVar[SessionFunction | None] = None
    session_parameters: ClassVar[Mapping[str, object] | None] = None
    rtol: ClassVar[float] = 0.0
    atol: ClassVar[float] = 0.0

    def test_run__results_have_the_declared_dims_dtypes_and_ranges(self, lake: Lake) -> None:
        """A run gives at least one result, no failure, and only values within the declarations."""
        which = find_step(self.step)
        result = lake.run(which, **self.parameters)
        assert result.failed == 0, lake.failures(which.name)["message"].tolist()
        usable = self._usable(lake)
        assert usable.any(), "no exam has a result; provide a lake with inputs of the step"
        filled = []
        for variable in which.writes:
            array = lake.root[variable.path]
            assert array.metadata.dimension_names == (variable.first_axis, *variable.dims)
            stored = array.dtype.name if array.dtype.kind != "T" else "string"
            assert stored.startswith(variable.dtype), (variable.path, stored)
            values = array[:][usable]
            assert list(variable.faults(values)) == [], variable.path
            filled.append(not _is_fill(variable, values).all())
        assert any(filled), "all results are fill values"
        assert lake.validate(deep=True) == []

    def test_run__a_second_run_has_nothing_to_compute(self, lake: Lake) -> None:
        """A repeated run finds all exams up to date: parameters are recorded consistently."""
        which = find_step(self.step)
        first = lake.run(which, **self.parameters)
        again = lake.plan(which, **self.parameters)
        assert len(again.rows) == 0
        assert again.up_to_date == sum(first.counts.values()) - first.failed

    def test_run__a_single_exam_has_the_result_of_all(self, lake: Lake) -> None:
        """The result of an exam does not depend on the exams computed with it."""
        which = find_step(self.step)
        lake.run(which, **self.parameters)
        row = int(np.flatnonzero(self._usable(lake))[-1])
        exam = f"exam == {lake.exams['exam'].iloc[row]!r}"
        lake.run(which, exam, variant="alone", **self.parameters)
        for variable in which.writes:
            together = lake.root[variable.path][row]
            alone = lake.root[f"{variable.path}__alone"][row]
            np.testing.assert_array_equal(alone, together, err_msg=variable.path)

    def test_session__equals_the_run(self, lake: Lake) -> None:
        """The session function returns what a run stores."""
        which = find_step(self.step)
        made = self._session(lake).compute()
        lake.run(which, **self.parameters)
        usable = self._usable(lake)
        compared = 0
        for variable in which.writes:
            if variable.name not in made:
                continue
            stored = lake.load(which.group)[variable.name].values[usable]
            own = made[variable.name].transpose("exam", *variable.dims).values[usable]
            assert own.dtype == stored.dtype, variable.path
            self._assert_equal(own, stored, variable.path)
            compared += 1
        assert compared, "the session function returns no variable of the step"

    def test_session__is_lazy(self, lake: Lake) -> None:
        """Nothing is computed before values are requested."""
        import dask

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("computed before values were requested")

        with dask.config.set(scheduler=refuse):
            made = self._session(lake)
        names = [v.name for v in find_step(self.step).writes if v.name in made]
        assert names, "the session function returns no variable of the step"
        for name in names:
            assert made[name].chunks is not None, f"{name} is in memory"

    def test_session__does_not_depend_on_chunks(self, lake: Lake) -> None:
        """The values do not depend on the chunk sizes, neither along nor inside exams."""
        once = self._session(lake).compute()
        for size in (1, 2):
            chunks = {"exam": 3 - size, "slice": size, "row": -1}
            other = self._session(lake, chunks).compute()
            for variable in find_step(self.step).writes:
                if variable.name in once:
                    np.testing.assert_array_equal(
                        other[variable.name], once[variable.name], err_msg=variable.path
                    )

    def _session(self, lake: Lake, chunks: Mapping[str, int] | None = None) -> xr.Dataset:
        session = type(self).session
        if session is None:
            import pytest

            pytest.skip("no session function")
        which = find_step(self.step)
        datasets = [lake.load(group) for group in which.inputs(which.parameters(self.parameters))]
        if chunks is not None:
            datasets = [
                ds.chunk({dim: n for dim, n in chunks.items() if dim in ds.dims}) for ds in datasets
            ]
        given = self.parameters if self.session_parameters is None else self.session_parameters
        return session(*datasets, **given)

    def _usable(self, lake: Lake) -> Values:
        status = read_status(lake.root, find_step(self.step).name, len(lake))
        return np.isin(status.state, (State.DONE, State.FLAGGED))

    def _assert_equal(self, own: Values, stored: Values, path: str) -> None:
        if own.dtype.kind == "f" and (self.rtol or self.atol):
            np.testing.assert_allclose(own, stored, self.rtol, self.atol, err_msg=path)
        else:
            np.testing.assert_array_equal(own, stored, err_msg=path)


def _is_fill(variable: Variable, values: Values) -> Values:
    return np.isnan(values) if values.dtype.kind == "f" else np.asarray(values == variable.fill)
