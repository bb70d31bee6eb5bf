from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.phantom.phase_graphs import ECHO_TIMES, echo_train
from qmri_lake.phantom.signal import CARTILAGE_T2, cartilage_t2, msme


def bloch(t2: float, b1: float, t1: float = 1200.0, spins: int = 2000) -> np.ndarray:
    """Echoes of many isochromats turned one by one: no phase graphs involved."""
    phase = 2 * np.pi * (np.arange(spins) + 0.5) / spins  # dephasing in half an echo spacing
    m = np.zeros((3, spins))
    m[1] = 1.0  # a 90 degree pulse about x left it along y
    angle = np.pi * b1

    def wait(m: np.ndarray) -> np.ndarray:
        c, s = np.cos(phase), np.sin(phase)
        x, y = c * m[0] - s * m[1], s * m[0] + c * m[1]
        z = 0 * m[2] + m[2] * np.exp(-5 / t1)  # recovery dephases: no part in the echoes
        return np.stack([x * np.exp(-5 / t2), y * np.exp(-5 / t2), z])

    out = []
    for _ in range(7):
        m = wait(m)
        x, z = m[0], m[2]  # refocus about y, the axis of the magnetisation (CPMG)
        m = np.stack(
            [x * np.cos(angle) + z * np.sin(angle), m[1], z * np.cos(angle) - x * np.sin(angle)]
        )
        m = wait(m)
        out.append(m[1].mean())
    return np.array(out)


@pytest.mark.parametrize("b1", [0.8, 0.93, 1.0, 1.1])
@pytest.mark.parametrize("t2", [20.0, 35.0, 120.0])
def test_echo_train__equals_a_bloch_simulation(t2: float, b1: float) -> None:
    train = echo_train(np.array(t2), np.array(b1))
    np.testing.assert_allclose(train, bloch(t2, b1), atol=1e-9)


def test_echo_train__perfect_pulses_are_exponential() -> None:
    t2 = np.array([10.0, 40.0, 90.0])
    train = echo_train(t2, np.ones(3))
    np.testing.assert_allclose(train, np.exp(-np.array(ECHO_TIMES)[:, None] / t2), rtol=1e-12)


def test_cartilage_t2__rises_from_deep_to_superficial() -> None:
    depth = np.array([0.1, 0.5, 0.95], np.float32)
    np.testing.assert_allclose(cartilage_t2(depth), CARTILAGE_T2)
    np.testing.assert_allclose(cartilage_t2(depth, 0.1), np.array(CARTILAGE_T2) * 1.1, rtol=1e-6)


def test_msme__noise_is_rician_and_mixed_voxels_have_no_t2() -> None:
    fraction = np.zeros((2, 2000, 11), np.float32)
    fraction[0, :, 0] = 1  # air
    fraction[1, :, 3] = fraction[1, :, 6] = 0.5  # cartilage and muscle
    depth = np.full((2, 2000), 0.5, np.float32)
    plain = np.ones((2, 2000), np.float32)
    series, t2 = msme(
        fraction,
        depth,
        0 * plain,
        plain,
        plain,
        model="epg",
        raised=0.0,
        gain=1.0,
        noise=0.02,
        rng=np.random.default_rng(0),
    )
    assert np.isnan(t2).all()
    # Rayleigh: mean = sigma sqrt(pi / 2)
    assert series[:, 0].mean() == pytest.approx(0.02 * np.sqrt(np.pi / 2), rel=0.02)
    assert series[0, 1].mean() > series[6, 1].mean() > 0.05
