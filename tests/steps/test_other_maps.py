"""T1rho, T2* and T2 of qDESS of a lake: runs, session functions, and their truth."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from scipy.optimize import least_squares

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.execution.step import Skip, find_step
from qmri_lake.lake.lake import Lake
from qmri_lake.relaxometry import FitStatus, fit_qdess
from qmri_lake.testing import StepTests
from tests.series_lakes import series_lake, simulate_dess

SHAPE = (3, 5, 4)
SPIN_LOCK = np.array([0.0, 10.0, 40.0, 80.0])
TRAIN = np.array([4.0, 9.0, 14.0, 19.0, 24.0])
CASES = {
    "t1rho": (ql.fit_t1rho, SPIN_LOCK, (35, 55), "spin_lock"),
    "t2star": (ql.fit_t2star, TRAIN, (15, 30), "echo"),
}
QDESS_T2 = (25.0, 35.0, 50.0)
ACQUIRED = {"repetition_time": 20.0, "flip_angle": 30.0}


def decaying(kind: str, row: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Signal (images, slice, row, column) and its relaxation time [ms]."""
    _, times, (low, high), _ = CASES[kind]
    rng = np.random.default_rng(row)
    truth = rng.uniform(low, high, SHAPE)
    signal = 1000 * np.exp(-times[:, None, None, None] / truth)
    return (signal + noise * rng.standard_normal(signal.shape)).astype(np.float32), truth


def exponential_lake(path: Path, kind: str, noise: float = 0.0) -> Lake:
    """Three exams; the last has one image less, and a mask of all but one voxel."""
    _, times, _, axis = CASES[kind]
    exams = []
    for row in range(3):
        labels = np.ones(SHAPE, np.uint8)
        labels[0, 0, 0] = 0
        used = slice(0, len(times) - (row == 2))
        exams.append(
            {
                "image": decaying(kind, row, noise)[0][used],
                f"{axis}_time": times[used],
                "cartilage": labels,
            }
        )
    return series_lake(path, kind, exams)


def qdess_lake(path: Path) -> Lake:
    exams = []
    for row in range(2):
        echoes = np.array([simulate_dess(t2, flip=30, repetitions=200) for t2 in QDESS_T2]).T
        image = 1000 * np.broadcast_to(echoes[:, :, None, None], (2, *SHAPE)) * (row + 1)
        spoiler = {"gradient_area": 31.32, "gradient_duration": 1.9} if row else {}
        exams.append(
            {
                "image": image.astype(np.float32),
                "echo_time": np.array([6.0, 34.0]),
                "cartilage": np.ones(SHAPE, np.uint8),
                **ACQUIRED,
                **spoiler,
            }
        )
    return series_lake(path, "qdess", exams)


class TestT1rho(StepTests):
    step = "t1rho"
    session = staticmethod(ql.fit_t1rho)

    @pytest.fixture
    def lake(self, tmp_path: Path) -> Lake:
        return exponential_lake(tmp_path / "a.lake", "t1rho", noise=5.0)


class TestT2Star(StepTests):
    step = "t2star"
    parameters = {"within": "all", "skip_first": True, "r2_min": None}  # noqa: RUF012
    session = staticmethod(ql.fit_t2star)

    @pytest.fixture
    def lake(self, tmp_path: Path) -> Lake:
        return exponential_lake(tmp_path / "a.lake", "t2star", noise=5.0)


class TestQdessT2(StepTests):
    step = "qdess_t2"
    session = staticmethod(ql.fit_qdess_t2)

    @pytest.fixture
    def lake(self, tmp_path: Path) -> Lake:
        return qdess_lake(tmp_path / "a.lake")


# -- exponential maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CASES)
def test_fit__is_the_truth_without_noise_and_the_least_squares_optimum_with(
    tmp_path: Path, kind: str
) -> None:
    fit, times, _, _ = CASES[kind]
    exact = fit(exponential_lake(tmp_path / "exact.lake", kind).load(kind), within="all")
    for row in range(3):
        np.testing.assert_allclose(exact[kind][row], decaying(kind, row)[1], rtol=1e-4)
    noisy = fit(exponential_lake(tmp_path / "noisy.lake", kind, noise=30.0).load(kind)).compute()
    assert noisy[f"{kind}_status"][0, 0, 0, 0] == FitStatus.OUTSIDE
    signal = decaying(kind, 1, 30.0)[0].reshape(len(times), -1)
    for voxel in range(1, 12):
        y = signal[:, voxel].astype(np.float64)
        best = least_squares(
            lambda p, y=y: p[0] * np.exp(-times / p[1]) - y, (1000, 30), xtol=1e-12, ftol=1e-12
        )
        assert noisy[kind][1].values.ravel()[voxel] == pytest.approx(best.x[1], rel=1e-4)


@pytest.mark.parametrize("kind", CASES)
def test_fit__lazy_with_units_and_with_names_of_its_own(tmp_path: Path, kind: str) -> None:
    fit, times, _, axis = CASES[kind]
    signal, truth = decaying(kind, 0)

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("something was computed")

    dims = (axis, "slice", "row", "column")
    seconds = (axis, times / 1000, {"units": "s"})
    ds = xr.Dataset({"image": (dims, signal), f"{axis}_time": seconds})
    with dask.config.set(scheduler=refuse):
        fitted = fit(ds)
        assert fitted[kind].chunks is not None
    np.testing.assert_allclose(fitted[kind], truth, rtol=1e-4)
    assert {*fitted} - {*ds} == {kind, f"{kind}_error", "s0", "r2", f"{kind}_status"}
    with pytest.raises(NotFoundError, match=f"no variable '{axis}_time'"):
        fit(ds.drop_vars(f"{axis}_time"))
    with pytest.raises(InputError, match=f"swap_dims.{axis}_time='{axis}'"):
        fit(ds.swap_dims({axis: f"{axis}_time"}))
    with pytest.raises(InputError, match="without units"):
        fit(ds.assign({f"{axis}_time": (axis, times)}))


def test_t1rho__first_image_can_be_left_out(tmp_path: Path) -> None:
    signal, truth = decaying("t1rho", 0)
    signal[0] = 20  # dark
    exam = {"image": signal, "spin_lock_time": SPIN_LOCK, "cartilage": np.ones(SHAPE, np.uint8)}
    lake = series_lake(tmp_path / "a.lake", "t1rho", [exam])
    lake.run("t1rho", r2_min=None)
    assert not np.allclose(lake.load("t1rho")["t1rho"][0], truth, rtol=0.1)
    lake.run("t1rho", skip_first=True)
    np.testing.assert_allclose(lake.load("t1rho")["t1rho"][0], truth, rtol=1e-4)
    ds = lake.load("t1rho").isel(spin_lock=slice(0, 2))
    with pytest.raises(InputError, match="1 spin-lock images"):
        ql.fit_t1rho(ds, skip_first=True).compute()


def test_fit__accepted_ranges_are_those_of_the_series(tmp_path: Path) -> None:
    for kind, high in (("t1rho", 150), ("t2star", 100)):
        fit, times, _, axis = CASES[kind]
        values = np.array([high - 5.0, high + 5.0])
        image = 1000 * np.exp(-times[:, None] / values)[..., None, None]
        ds = xr.Dataset(
            {
                "image": ((axis, "slice", "row", "column"), image),
                f"{axis}_time": (axis, times, {"units": "ms"}),
            }
        )
        status = fit(ds)[f"{kind}_status"].values.ravel()
        assert status.tolist() == [FitStatus.FITTED, FitStatus.OUT_OF_BOUNDS]
        assert np.isfinite(fit(ds, bounds=(0, 200))[kind]).all()


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": (5, 1)}, "bounds"),
        ({"within": "bone"}, "within='bone'"),
        ({"skip_first": 2}, "skip_first=2"),
        ({"r2_min": "high"}, "r2_min='high'"),
    ],
)
def test_run__refuses_invalid_parameters_when_planned(
    tmp_path: Path, kind: str, change: dict[str, object], message: str
) -> None:
    lake = exponential_lake(tmp_path / "a.lake", kind)
    with pytest.raises(RunError, match=message):
        lake.plan(kind, **change)
    step = find_step(kind)
    empty = lake.load(kind).isel(exam=0).compute()
    with pytest.raises(Skip, match="no cartilage on the"):
        step(empty.assign(cartilage=empty["cartilage"] * 0))


# -- qDESS -----------------------------------------------------------------------------------------


def test_qdess_t2__of_simulated_echoes(tmp_path: Path) -> None:
    lake = qdess_lake(tmp_path / "a.lake")
    assert lake.run("qdess_t2").counts["done"] == 2
    ds = lake.load("qdess").compute()
    for k, t2 in enumerate(QDESS_T2):
        np.testing.assert_allclose(ds["t2"][0, k], t2, rtol=0.03)
    assert ds["t2_diffusion"].values.tolist() == [0, 1]  # the first header states no spoiler
    given = ql.fit_qdess_t2(ds.drop_vars("t2"), gradient_area=31.32, gradient_duration=1.9)
    np.testing.assert_array_equal(given["t2"][0], ds["t2"][1])
    assert given["t2_diffusion"].values.tolist() == [1, 1]
    exact = ql.fit_qdess_t2(ds, solution="exact", diffusivity=0.0)["t2"]
    for k, t2 in enumerate(QDESS_T2):
        np.testing.assert_allclose(exact[:, k], t2, rtol=1e-3)
    assert lake.validate(deep=True) == []


def test_qdess_t2__parameters_of_the_header_and_of_the_user(tmp_path: Path) -> None:
    exam = {
        "image": np.full((2, *SHAPE), [[[[300.0]]], [[[60.0]]]], np.float32),
        "echo_time": np.array([6.0, 34.0]),
        "cartilage": np.ones(SHAPE, np.uint8),
        "repetition_time": 20.0,
    }
    lake = series_lake(tmp_path / "a.lake", "qdess", [exam])
    assert lake.run("qdess_t2").failed == 1
    assert "no flip_angle" in lake.failures("qdess_t2")["message"][0]
    lake.run("qdess_t2", retry_failed=True, flip_angle=20, t1=1000)
    fit = fit_qdess(
        exam["image"], repetition_time=20, echo_time=6, flip_angle=20, t1=1000, bounds=(0, 100)
    )
    np.testing.assert_array_equal(lake.load("qdess")["t2"][0], fit.t2)
    for change, message in (
        ({"flip_angle": 0}, "flip_angle=0"),
        ({"t1": "long"}, "t1='long'"),
        ({"diffusivity": 1.25}, "diffusivity=1.25"),
        ({"solution": "best"}, "solution='best'"),
        ({"gradient_area": -1}, "gradient_area=-1"),
    ):
        with pytest.raises(RunError, match=message):
            lake.plan("qdess_t2", **change)


def test_qdess_t2__no_solution_is_nan_with_a_status(tmp_path: Path) -> None:
    image = np.full((2, *SHAPE), 300.0, np.float32)
    image[1, 0] = 60
    exam = {"image": image, "echo_time": np.array([6.0, 34.0]), **ACQUIRED}
    lake = series_lake(tmp_path / "a.lake", "qdess", [exam])
    lake.run("qdess_t2", within="all")
    ds = lake.load("qdess").isel(exam=0).compute()
    assert np.isfinite(ds["t2"][0]).all()
    assert np.isnan(ds["t2"][1:]).all()
    assert (ds["t2_status"][1:] == FitStatus.RISING).all()
