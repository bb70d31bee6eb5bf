"""T2 of both echoes of a DESS, against echoes simulated by extended phase graphs."""

from __future__ import annotations

import math

import array_api_strict
import numpy as np
import pytest

from qmri_lake.errors import InputError
from qmri_lake.relaxometry import FitStatus, fit_mono_exponential, fit_qdess
from tests.series_lakes import simulate_dess

T2 = (25.0, 35.0, 50.0)
SPOILER = {"gradient_area": 31.32, "gradient_duration": 1.9}
"""Of GE's qDESS: 3132 G us/cm in 1904 us."""


def echoes(**options: float) -> np.ndarray:
    """Return simulated echoes (2, T2)."""
    return np.array([simulate_dess(t2, **options) for t2 in T2]).T


def sequence(tr: float, te: float, flip: float) -> dict[str, float]:
    return {"repetition_time": tr, "echo_time": te, "flip_angle": flip}


@pytest.mark.parametrize(("tr", "te", "flip"), [(16.3, 4.7, 25), (20.0, 6.0, 30), (18.6, 5.9, 35)])
def test_fit_qdess__t2_of_simulated_echoes_within_3_percent(tr, te, flip):
    signal = 500 * echoes(tr=tr, te=te, flip=flip)
    fit = fit_qdess(signal, **sequence(tr, te, flip))
    np.testing.assert_allclose(fit.t2, T2, rtol=0.03)
    exact = fit_qdess(signal, **sequence(tr, te, flip), solution="exact")
    np.testing.assert_allclose(exact.t2, T2, rtol=1e-4)  # the simulation ends after 30 orders


def test_fit_qdess__error_at_20_degrees_is_that_of_the_documentation():
    signal = echoes(tr=20.0, te=6.0, flip=20)
    error = fit_qdess(signal, **sequence(20, 6, 20)).t2 / T2 - 1
    np.testing.assert_allclose(error, (0.01, 0.025, 0.057), atol=0.005)
    np.testing.assert_allclose(
        fit_qdess(signal, **sequence(20, 6, 20), solution="exact").t2, T2, rtol=2e-4
    )
    # One exponential through both echoes ignores the flip angle.
    wrong = fit_mono_exponential(signal, [6.0, 34.0]).t2 / T2 - 1
    np.testing.assert_allclose(wrong, (-0.17, -0.22, -0.27), atol=0.01)


def test_fit_qdess__considers_diffusion_if_the_spoiler_is_known():
    options = {"tr": 20.0, "te": 6.0, "flip": 30.0}
    signal = echoes(**options, area=31.32, duration=1.9, diffusivity=1.25e-9)
    args = sequence(20, 6, 30)
    with_terms = fit_qdess(signal, **args, **SPOILER, solution="exact").t2
    np.testing.assert_allclose(with_terms, T2, rtol=0.002)
    np.testing.assert_allclose(fit_qdess(signal, **args, **SPOILER).t2, T2, rtol=0.03)
    without = fit_qdess(signal, **args, solution="exact").t2
    assert (without < 0.99 * np.array(T2)).all()
    none = fit_qdess(signal, **args, **SPOILER, diffusivity=0.0, solution="exact").t2
    np.testing.assert_array_equal(none, without)
    np.testing.assert_array_equal(
        fit_qdess(signal, **args, gradient_area=31.32, solution="exact").t2, without
    )


def test_fit_qdess__is_the_published_equation():
    rng = np.random.default_rng(0)
    s1, s2 = rng.uniform(100, 900, 50), rng.uniform(10, 400, 50)
    tr, te, alpha, t1, d = 0.0186, 0.0059, math.radians(20), 1.2, 1.25e-9
    dk = 4258 * 2 * math.pi * (3132 / 1904 * 100) * 1904e-6  # gauss, metres and seconds
    e = math.exp(-tr / t1 - tr * dk**2 * d)
    k = math.sin(alpha / 2) ** 2 * (1 + e) / (1 - math.cos(alpha) * e)
    c1 = (tr - 1904e-6 / 3) * dk**2 * d
    t2 = -2000 * (tr - te) / (np.log(s2 / s1 / k) + c1)
    fit = fit_qdess(
        np.stack([s1, s2]), **sequence(18.6, 5.9, 20), gradient_area=31.32, gradient_duration=1.904
    )
    solved = np.isin(fit.status, (FitStatus.FITTED,))
    assert solved.sum() > 20
    np.testing.assert_allclose(fit.t2[solved], t2[solved], rtol=1e-4)  # gamma is rounded there
    assert (fit.status[s2 / s1 > k] == FitStatus.RISING).all()
    assert np.isnan(fit.t2[~solved]).all()


def test_fit_qdess__status_where_there_is_no_t2():
    first = np.array([300.0, 0, 0, np.nan, 300, 300, 300, 300, 300])
    second = np.array([60.0, 0, 5, 1, np.inf, 290, 0, 60, 215])
    mask = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1], bool)
    expected = [
        *(FitStatus.FITTED, FitStatus.ZERO, FitStatus.RISING, FitStatus.NOT_FINITE),
        *(FitStatus.NOT_FINITE, FitStatus.RISING, FitStatus.BELOW_RESOLUTION),
        *(FitStatus.OUTSIDE, FitStatus.OUT_OF_BOUNDS),
    ]
    for solution in ("analytic", "exact"):
        fit = fit_qdess(
            np.stack([first, second]),
            **sequence(20, 6, 20),
            mask=mask,
            bounds=(0, 100),
            solution=solution,
        )
        assert [FitStatus(s) for s in fit.status] == expected
        assert np.isfinite(fit.t2).tolist() == [True] + 8 * [False]


@pytest.mark.parametrize("solution", ["analytic", "exact"])
def test_fit_qdess__other_array_libraries_give_the_same(solution):
    rng = np.random.default_rng(1)
    signal = rng.uniform(0, 500, (2, 4, 5)).astype(np.float32)
    signal[:, 0, 0] = 0
    mask = rng.random((4, 5)) > 0.2
    options = {**sequence(20, 6, 25), **SPOILER, "bounds": (0, 100), "solution": solution}
    ours = fit_qdess(signal, mask=mask, **options)
    device = array_api_strict.Device("device1")
    other = fit_qdess(
        array_api_strict.asarray(signal, device=device),
        mask=array_api_strict.asarray(mask, device=device),
        **options,
    )
    assert other.t2.device == device
    assert ours.t2.dtype == np.float32
    for name in ("t2", "status"):
        values = np.array(getattr(other, name).to_device(array_api_strict.Device("CPU_DEVICE")))
        np.testing.assert_array_equal(values, getattr(ours, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repetition_time": float("nan")}, "no repetition_time"),
        ({"flip_angle": 0}, "flip_angle = 0"),
        ({"echo_time": 25}, "echo_time = 25"),
        ({"t1": -1}, "t1 = -1"),
        ({"diffusivity": 1.25}, "diffusivity = 1.25"),
        ({"solution": "newton"}, "solution='newton'"),
        ({"bounds": (5, 5)}, "bounds"),
        ({"signal": np.ones((3, 4))}, "shape"),
        ({"signal": np.ones((2, 4), complex)}, "complex"),
    ],
)
def test_fit_qdess__refuses_what_is_not_a_qdess(change, message):
    options = {**sequence(20, 6, 20), **change}
    signal = options.pop("signal", np.ones((2, 4)))
    with pytest.raises(InputError, match=message):
        fit_qdess(signal, **options)
