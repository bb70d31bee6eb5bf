"""The fit of NumPy arrays: its optimum, its statuses, its errors."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy.optimize import curve_fit

from qmri_lake.errors import InputError, Reason
from qmri_lake.relaxometry import FitStatus, fit_epg, fit_mono_exponential
from qmri_lake.relaxometry._constants import HIGHEST, LOWEST
from tests.relaxometry.signals import EVEN, LONG, UNEVEN, decay, rician, six_classes, words

ANY = (1e-3, np.inf)
"""Bounds, ms, that keep each optimum: a positive lower bound replaces the limit of the echoes."""


def model(t, s0, t2):
    return s0 * np.exp(-t / t2)


def squares(signal, echo_time, s0, t2):
    return ((signal - s0 * np.exp(-echo_time[:, None] / t2)) ** 2).sum(axis=0)


def grid_squares(signal, echo_time):
    """The smallest sum of squares over 2,000 T2 in 0.5 .. 5,000 ms, each with its best S0 >= 0."""
    base = np.exp(-echo_time / np.geomspace(0.5, 5000, 2000)[:, None])
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    part = np.maximum(base @ signal, 0).max(axis=0)
    return (signal**2).sum(axis=0) - part**2


def worse_than_grid(signal, echo_time):
    """Voxels that are worse than the grid, or without a T2 although a decay fits them best."""
    fit = fit_mono_exponential(signal, echo_time, bounds=ANY)
    energy = (signal**2).sum(axis=0)
    constant = ((signal - signal.mean(axis=0)) ** 2).sum(axis=0)
    ours = squares(signal, echo_time, fit.s0, fit.t2)
    # Without a T2 the claim is that nothing falls better than a constant does.
    ours = np.where(np.isnan(fit.t2), constant, ours)
    return ~(ours <= grid_squares(signal, echo_time) + 1e-12 * energy)


@pytest.mark.parametrize("times", [EVEN, UNEVEN, LONG], ids=["even", "uneven", "long"])
def test_fit_mono_exponential__optimum(times, judge):
    signals = {k: v.astype(np.float64) for k, v in six_classes(times, 2000).items()}
    worse = {name: int(worse_than_grid(signal, times).sum()) for name, signal in signals.items()}
    total = sum(signal.shape[1] for signal in signals.values())
    judge(
        f"T2 / optimum against a grid of 2,000 T2, six classes, {words(times)}",
        required="0 of 12,000 worse",
        measured=f"{sum(worse.values())} of {total:,} worse",
        passed=total == 12_000 and not sum(worse.values()),
    )


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fit_mono_exponential__equals_tight_curve_fit(times, judge):
    signal = six_classes(times, 1000, seed=1)["cartilage"]
    ours = fit_mono_exponential(signal, times).t2
    assert ours.dtype == np.float32
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    scipy = [
        curve_fit(model, times, voxel, p0=(2 * voxel[0], 35.0), **tight)[0][1]
        for voxel in signal.T.astype(np.float64)
    ]
    distance = float(np.abs(ours - scipy).max())
    judge(
        f"T2 / distance from tight scipy curve_fit, cartilage, SNR 20-60, {words(times)}",
        required="< 1e-3 ms",
        measured=f"{distance:.1e} ms in {len(scipy):,} voxels",
        passed=distance < 1e-3,
    )


def test_fit_mono_exponential__without_noise_is_exact():
    t2 = np.geomspace(2.0, 2000.0, 500)
    for times in (EVEN, UNEVEN, LONG):
        fit = fit_mono_exponential(700 * decay(times, t2), times, bounds=ANY)
        np.testing.assert_allclose(fit.t2, t2, rtol=1e-7)
        np.testing.assert_allclose(fit.s0, 700, rtol=1e-6)
        np.testing.assert_allclose(fit.r2, 1)
        assert (fit.status == FitStatus.FITTED).all()


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fit_mono_exponential__units_of_signal_and_time_are_no_matter(times):
    signal = np.hstack(list(six_classes(times, 200, seed=2).values())).astype(np.float64)
    fit = fit_mono_exponential(signal, times)
    louder = fit_mono_exponential(1024 * signal, times)
    seconds = fit_mono_exponential(signal, times / 1000)
    assert np.array_equal(louder.status, fit.status)
    assert np.array_equal(seconds.status, fit.status)
    np.testing.assert_allclose(louder.t2, fit.t2, rtol=1e-12)
    np.testing.assert_allclose(louder.s0, 1024 * fit.s0, rtol=1e-12)
    np.testing.assert_allclose(seconds.t2, fit.t2 / 1000, rtol=1e-7)
    np.testing.assert_allclose(seconds.t2_error, fit.t2_error / 1000, rtol=1e-7)


@pytest.mark.accept
def test_fit_mono_exponential__neighbours_are_no_matter():
    signal = np.hstack(list(six_classes(EVEN, 150, seed=3).values()))
    whole = fit_mono_exponential(signal, EVEN)
    order = np.random.default_rng(0).permutation(signal.shape[1])
    alone = [fit_mono_exponential(signal[:, [v]], EVEN) for v in order[:40]]
    mixed = fit_mono_exponential(signal[:, order], EVEN)
    some = np.random.default_rng(1).random(signal.shape[1]) < 0.1
    masked = fit_mono_exponential(signal, EVEN, some)
    for name in ("t2", "t2_error", "s0", "r2", "status"):
        values = getattr(whole, name)
        assert np.array_equal(getattr(mixed, name), values[order], equal_nan=True)
        ones = np.concatenate([getattr(fit, name) for fit in alone])
        assert np.array_equal(ones, values[order[:40]], equal_nan=True)
        assert np.array_equal(getattr(masked, name)[some], values[some], equal_nan=True)
    assert (masked.status[~some] == FitStatus.OUTSIDE).all()
    assert all(np.isnan(maps[~some]).all() for maps in masked[:4])


def test_fit_mono_exponential__shape_and_dtype_follow_the_signal():
    t2 = np.linspace(20, 60, 24).reshape(2, 3, 4)
    signal = 500 * np.exp(-EVEN[:, None, None, None] / t2)
    for dtype, kept in (("float64", "float64"), ("float32", "float32"), ("uint16", "float32")):
        fit = fit_mono_exponential(signal.astype(dtype), list(EVEN), np.ones(t2.shape, bool))
        assert [m.dtype for m in fit[:4]] == [np.dtype(kept)] * 4
        assert fit.status.dtype == np.uint8
        assert {m.shape for m in fit} == {t2.shape}
        np.testing.assert_allclose(fit.t2, t2, rtol=1e-5 if dtype != "uint16" else 0.05)
    swapped = np.moveaxis(np.ascontiguousarray(np.moveaxis(signal, 0, -1)), -1, 0)
    np.testing.assert_allclose(fit_mono_exponential(swapped, EVEN).t2, t2)
    assert fit_mono_exponential(signal[:, :, :0], EVEN).t2.shape == (2, 0, 4)


# -- statuses ----------------------------------------------------------------------------------


def one(voxel, times=EVEN, **options):
    fit = fit_mono_exponential(np.array(voxel, dtype=np.float64)[:, None], times, **options)
    return {name: getattr(fit, name)[0] for name in fit._fields}


GOOD = 900 * np.exp(-EVEN / 35)

NO_VALUE = {
    "zero": (np.zeros(6), FitStatus.ZERO),
    "constant": (np.full(6, 77.0), FitStatus.CONSTANT),
    "rising": (np.linspace(100, 200, 6), FitStatus.RISING),
    "negative": (-GOOD, FitStatus.RISING),
    "nan": (np.where(EVEN == 40, np.nan, GOOD), FitStatus.NOT_FINITE),
    "infinite": (np.where(EVEN == 20, np.inf, GOOD), FitStatus.NOT_FINITE),
}


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize(("voxel", "status"), NO_VALUE.values(), ids=NO_VALUE)
def test_fit_mono_exponential__no_value_is_nan_and_a_status(voxel, status, times):
    fit = one(voxel, times)
    assert fit.pop("status") == status
    assert all(np.isnan(value) for value in fit.values())


def test_fit_mono_exponential__status_is_each_its_own(judge):
    found = {name: int(one(voxel)["status"]) for name, (voxel, _) in NO_VALUE.items()}
    found["outside"] = int(fit_mono_exponential(GOOD[:, None], EVEN, np.array([False])).status[0])
    found["above the bounds"] = int(one(GOOD, bounds=(0, 30))["status"])
    found["below half the first echo time"] = int(one(900 * np.exp(-EVEN / 8))["status"])
    noisy = six_classes(EVEN, 500, seed=4)["noise"].astype(np.float64)
    poor = fit_mono_exponential(noisy, EVEN, r2_min=0.8)
    rejected = poor.status == FitStatus.POOR_FIT
    found["poor fit"] = int(FitStatus.POOR_FIT) if rejected.sum() > 100 else -1
    wanted = {name: int(status) for name, (_, status) in NO_VALUE.items()} | {
        "outside": 1,
        "above the bounds": 6,
        "poor fit": 7,
        "below half the first echo time": 9,
    }
    assert np.isnan(poor.t2[rejected]).all()
    assert (poor.r2[rejected] < 0.8).all()
    assert (poor.r2[poor.status == FitStatus.FITTED] >= 0.8).all()
    judge(
        "T2 / a missing value is NaN with a separate status, never 0",
        required=", ".join(f"{name} {code}" for name, code in wanted.items()),
        measured=", ".join(f"{name} {code}" for name, code in found.items()),
        passed=found == wanted,
    )


def test_fit_mono_exponential__bounds_are_open_below_and_closed_above():
    t2 = one(GOOD)["t2"]
    assert one(GOOD, bounds=(0, t2))["status"] == FitStatus.FITTED
    assert one(GOOD, bounds=(t2, 100))["status"] == FitStatus.OUT_OF_BOUNDS
    below = one(GOOD, bounds=(0, np.nextafter(t2, 0)))
    assert below["status"] == FitStatus.OUT_OF_BOUNDS
    assert np.isnan(below["t2"])
    assert np.isnan(below["t2_error"])
    assert below["s0"] == pytest.approx(900)
    assert below["r2"] == pytest.approx(1)


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fit_mono_exponential__ends_of_the_search(times):
    spacing = (times[-1] - times[0]) / (len(times) - 1)
    highest = spacing * HIGHEST
    assert one(900 * np.exp(-times / (0.8 * highest)), times)["status"] == FitStatus.FITTED
    assert one(900 * np.exp(-times / (5 * highest)), times)["status"] == FitStatus.RISING
    short = one(900 * np.exp(-times / (0.08 * spacing)), times, bounds=ANY)
    assert short["t2"] == pytest.approx(0.08 * spacing, rel=1e-6)


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fit_mono_exponential__gone_at_the_second_echo(times):
    voxel = [3.0, 0, 0, 0, 0, 0]
    assert one(voxel, times, bounds=ANY)["t2"] == pytest.approx(LOWEST * np.diff(times).mean())
    assert one(voxel, times, bounds=(1, 100))["status"] == FitStatus.OUT_OF_BOUNDS
    fit = one(voxel, times, bounds=(0, 100), r2_min=0.8)
    assert fit.pop("status") == FitStatus.BELOW_RESOLUTION
    assert all(np.isnan(value) for value in fit.values())


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_fit_mono_exponential__below_half_the_first_echo_time(times):
    shortest = times[0] / 2

    def status(t2, **options):
        return one(900 * np.exp(-times / t2), times, **options)["status"]

    assert status(1.001 * shortest) == FitStatus.FITTED
    assert status(0.999 * shortest) == FitStatus.BELOW_RESOLUTION
    assert status(0.999 * shortest, bounds=(-1, 100)) == FitStatus.BELOW_RESOLUTION
    # A lower bound above 0 replaces the limit, and another reason comes first.
    assert status(0.999 * shortest, bounds=(1, 100)) == FitStatus.FITTED
    assert status(0.5 * shortest, bounds=(0, 3)) == FitStatus.OUT_OF_BOUNDS
    poor = [3.0, 0.3, 0.9, 0, 0.6, 0]
    assert one(poor, times, r2_min=0.99)["status"] == FitStatus.POOR_FIT
    assert one(poor, times, r2_min=0.5)["status"] == FitStatus.BELOW_RESOLUTION
    # Without a delay before the first echo, there is no limit.
    start = one(900 * np.exp(-(times - times[0]) / 5), times - times[0])
    assert start["t2"] == pytest.approx(5)


# -- r2 and the standard error -------------------------------------------------------------------


def test_fit_mono_exponential__r2_is_centred():
    voxel = GOOD + np.array([20.0, -15.0, 12.0, -9.0, 7.0, -5.0])
    fit = one(voxel)
    residual = voxel - model(EVEN, fit["s0"], fit["t2"])
    centred = 1 - (residual**2).sum() / ((voxel - voxel.mean()) ** 2).sum()
    uncentred = 1 - (residual**2).sum() / (voxel**2).sum()
    assert fit["r2"] == pytest.approx(centred, abs=1e-12)
    assert abs(centred - uncentred) > 1e-3


@pytest.mark.parametrize("times", [EVEN, UNEVEN, LONG], ids=["even", "uneven", "long"])
def test_fit_mono_exponential__t2_error_is_scipys(times):
    signal = six_classes(times, 60, seed=5)["cartilage"].astype(np.float64)
    fit = fit_mono_exponential(signal, times)
    scipy = [
        np.sqrt(curve_fit(model, times, voxel, p0=(voxel[0], 35.0), xtol=1e-12)[1][1, 1])
        for voxel in signal.T
    ]
    np.testing.assert_allclose(fit.t2_error, scipy, rtol=1e-4)


def test_fit_mono_exponential__t2_error_is_the_spread_of_repeats(judge):
    rng = np.random.default_rng(6)
    clean = np.repeat(GOOD[:, None], 20_000, axis=1)
    fit = fit_mono_exponential(rician(clean, np.float64(9.0), rng), EVEN)
    said, seen = float(np.sqrt((fit.t2_error**2).mean())), float(fit.t2.std())
    judge(
        "T2 / standard error against the spread of 20,000 repeats, SNR 100",
        required="ratio 1 +- 0.03",
        measured=f"{said / seen:.3f} ({said:.3f} ms, {seen:.3f} ms)",
        passed=abs(said / seen - 1) < 0.03,
    )


def test_fit_mono_exponential__two_echoes_have_no_error():
    fit = one(GOOD[:2], EVEN[:2])
    assert fit["t2"] == pytest.approx(35)
    assert fit["r2"] == pytest.approx(1)
    assert np.isnan(fit["t2_error"])
    assert fit["status"] == FitStatus.FITTED


# -- errors --------------------------------------------------------------------------------------


def test_fit_mono_exponential__one_echo():
    with pytest.raises(InputError, match=r"1 echo times \(expected at least two"):
        fit_mono_exponential(GOOD[:1, None], EVEN[:1])


def test_fit_mono_exponential__mismatched_echoes():
    with pytest.raises(
        InputError,
        match=r"5 echo times for 6 echoes \(expected one for each echo, and echoes along the f",
    ):
        fit_mono_exponential(GOOD[:, None], EVEN[:5])


@pytest.mark.parametrize("times", [EVEN[::-1], np.r_[EVEN[:5], EVEN[4]], np.r_[EVEN[:5], np.nan]])
def test_fit_mono_exponential__unsorted_times(times):
    with pytest.raises(InputError, match=r"ms \(expected finite and ascending\)\. Sort the echoes"):
        fit_mono_exponential(GOOD[:, None], times)


@pytest.mark.parametrize("fit", [fit_mono_exponential, fit_epg])
def test_kernels__read_the_unit_of_labelled_echo_times(fit):
    expected = fit(GOOD[:, None], EVEN).t2
    for units, factor in (("s", 1e-3), ("ms", 1), ("us", 1e3)):
        times = xr.DataArray(EVEN * factor, dims="echo", attrs={"units": units})
        np.testing.assert_allclose(fit(GOOD[:, None], times).t2, expected, rtol=1e-9)
    with pytest.raises(InputError, match=r"echo_time without units \(expected"):
        fit(GOOD[:, None], xr.DataArray(EVEN, dims="echo"))
    with pytest.raises(InputError, match=r"an echo time of -10 ms \(expected .* at least 0\)"):
        fit(GOOD[:, None], EVEN - EVEN[0] - 10)


def test_fit_mono_exponential__wrong_mask():
    with pytest.raises(
        InputError, match=r"a mask of shape \(2, 3\) \(expected \(3, 2\), the shape of one echo"
    ) as caught:
        fit_mono_exponential(np.ones((6, 3, 2)), EVEN, np.ones((2, 3), bool))
    assert caught.value.reason == Reason.GRID_MISMATCH


def test_fit_mono_exponential__other_arrays():
    with pytest.raises(InputError, match=r"type dask\.array.*Array \(expected NumPy.*fit_t2\.$"):
        fit_mono_exponential(da.ones((6, 3)), EVEN)


def test_fit_mono_exponential__labels_that_nobody_made_are_refused():
    signal = np.exp(-EVEN[:, None] / np.array([30.0, 40.0]))
    with pytest.raises(InputError, match=r"a mask that contains 255.*bool.*qmri_lake.tissue"):
        fit_mono_exponential(signal, EVEN, np.array([1, 255], np.uint8))
    assert fit_mono_exponential(signal, EVEN, np.array([1, 0], np.uint8)).status.tolist() == [0, 1]


def test_fit_mono_exponential__what_a_masked_array_masks_is_outside():
    signal = np.ma.masked_array(np.exp(-EVEN[:, None] / np.array([30.0, 40.0, 50.0])))
    signal[2, 1] = np.ma.masked
    fit = fit_mono_exponential(signal, EVEN, np.array([True, True, False]))
    assert fit.status.tolist() == [FitStatus.FITTED, FitStatus.OUTSIDE, FitStatus.OUTSIDE]
    assert type(fit.t2) is np.ndarray


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (100, 0)}, r"bounds \(100.0, 0.0\) ms"),
        ({"bounds": (0, np.nan)}, "low < high"),
        ({"r2_min": np.nan}, "r2_min=nan"),
    ],
)
def test_fit_mono_exponential__limits_that_are_none(options, message):
    with pytest.raises(InputError, match=message):
        fit_mono_exponential(np.ones((len(EVEN), 2)), EVEN, **options)


def test_fit_mono_exponential__complex_signal():
    with pytest.raises(InputError, match=r"a complex signal \(expected magnitudes"):
        fit_mono_exponential(np.ones((len(EVEN), 2), complex), EVEN)


def test_fit_mono_exponential__a_signal_at_time_0_beyond_all_numbers_is_nan():
    times = np.array([100.0, 110.0, 120.0, 130.0])
    fit = fit_mono_exponential(np.array([[1], [0], [0], [0]], np.float32), times, bounds=ANY)
    assert fit.status.tolist() == [FitStatus.FITTED]
    assert np.isnan(fit.s0).all()
