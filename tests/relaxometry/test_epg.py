"""T2 by extended phase graphs, against isochromats that obey Bloch's equations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_lake.errors import InputError
from qmri_lake.relaxometry.epg import fit_epg
from qmri_lake.relaxometry.mono_exponential import FitStatus, fit_mono_exponential
from tests.conftest import Judge

ECHO_TIME = np.arange(10.0, 80.0, 10.0)
"""ms, of OAI's multi-echo series."""


def bloch(t2: float, b1: float, echoes: int = 7, spacing: float = 10.0, t1: float = 1200.0,
          spins: int = 256) -> NDArray[np.float64]:  # fmt: skip
    """Return the echoes of a CPMG train: spins that a crusher spreads, turned one by one.

    Shares nothing with phase graphs: each half spacing turns spin n by 2 pi n / spins about z, and
    each refocusing pulse turns all by b1 x 180 degrees about the axis of the first magnetisation.
    """
    phase = 2 * np.pi * np.arange(spins) / spins
    x, y, z = np.zeros(spins), np.ones(spins), np.zeros(spins)
    e2, e1 = np.exp(-spacing / 2 / t2), np.exp(-spacing / 2 / t1)
    c, s = np.cos(b1 * np.pi), np.sin(b1 * np.pi)
    signal = []
    for _ in range(echoes):
        for refocus in (True, False):
            x, y = np.cos(phase) * x - np.sin(phase) * y, np.sin(phase) * x + np.cos(phase) * y
            x, y, z = x * e2, y * e2, 1 + (z - 1) * e1
            if refocus:
                x, z = c * x + s * z, c * z - s * x
        signal.append(np.hypot(x.mean(), y.mean()))
    return np.array(signal)


def test_bloch__a_perfect_train_is_an_exponential() -> None:
    assert bloch(35.0, 1.0) == pytest.approx(np.exp(-ECHO_TIME / 35.0), abs=1e-12)


def test_fit_epg__recovers_t2_from_isochromats(judge: Judge) -> None:
    truth = [(t2, b1) for t2 in (20.0, 35.0, 50.0, 70.0) for b1 in (0.8, 0.9, 1.0, 1.1, 1.2)]
    signal = 1000 * np.stack([bloch(*pair) for pair in truth], axis=1)
    fit = fit_epg(signal, ECHO_TIME)
    error = fit.t2 - [t2 for t2, _ in truth]
    simple = fit_mono_exponential(signal[1:], ECHO_TIME[1:]).t2.reshape(4, 5)
    plain = fit_mono_exponential(signal, ECHO_TIME).t2.reshape(4, 5)
    judge(
        "EPG / T2 of isochromats, 20 to 70 ms, B1 0.8 to 1.2",
        required="within 1 ms",
        measured=f"worst {np.abs(error).max():.1e} ms; one exponential at B1 0.8 reads "
        f"{', '.join(f'{v:.1f}' for v in simple[:, 0])} without the first echo, "
        f"{', '.join(f'{v:.1f}' for v in plain[:, 0])} with all",
        passed=bool(np.abs(error).max() < 1),
    )
    wanted = [min(b1, 2 - b1) for _, b1 in truth]
    assert fit.b1 == pytest.approx(wanted, abs=0.01)
    assert (fit.status == FitStatus.FITTED).all()
    assert (fit.r2 > 0.999).all()


def test_fit_epg__noise_spreads_t2_and_moves_it_little() -> None:
    rng = np.random.default_rng(0)
    clean = 1000 * bloch(40.0, 0.9)
    noisy = np.abs(clean[:, None] + rng.normal(0, 10, (7, 2000)))
    fit = fit_epg(noisy, ECHO_TIME)
    fitted = fit.status == FitStatus.FITTED
    assert fitted.mean() > 0.99
    assert np.nanmedian(fit.t2) == pytest.approx(40, abs=0.6)
    assert np.nanstd(fit.t2) == pytest.approx(float(np.nanmedian(fit.t2_error)), rel=0.35)


def test_fit_epg__no_value_is_nan_with_a_status() -> None:
    signal = np.stack([np.zeros(7), np.full(7, 5.0), np.full(7, np.nan), 900 * bloch(35, 1)], 1)
    fit = fit_epg(signal, ECHO_TIME)
    assert np.isnan(fit.t2[:3]).all()
    assert np.isnan(fit.b1[:3]).all()
    assert (fit.status[:3] != FitStatus.FITTED).all()
    assert fit.t2[3] == pytest.approx(35, abs=0.1)
    masked = fit_epg(signal, ECHO_TIME, np.array([False, True, True, False]))
    assert np.isnan(masked.t2).all()


def test_fit_epg__shapes_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = 1000 * np.stack([bloch(t2, 0.85) for t2 in np.linspace(20, 70, 24)], axis=1)
    flat = fit_epg(signal, ECHO_TIME)
    cube = fit_epg(signal.reshape(7, 2, 3, 4), ECHO_TIME)
    np.testing.assert_array_equal(cube.t2.ravel(), flat.t2)
    monkeypatch.setattr("qmri_lake.relaxometry.epg.BYTES", 20_000)
    np.testing.assert_allclose(fit_epg(signal, ECHO_TIME).t2, flat.t2, rtol=1e-6)


@pytest.mark.parametrize(
    ("times", "echoes", "found"),
    [([10, 20, 35], 3, "echo"), ([10, 20], 2, "echo"), ([10, 20, 30, 40], 3, "echo")],
)
def test_fit_epg__refuses_trains_that_are_none(times: list[int], echoes: int, found: str) -> None:
    with pytest.raises(InputError, match=found):
        fit_epg(np.ones((echoes, 4)), np.array(times, float))
