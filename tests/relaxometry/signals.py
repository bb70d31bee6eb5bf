"""Signals of six classes of tissue, with the Rician noise of magnitude images."""

from __future__ import annotations

import numpy as np

EVEN = np.arange(20.0, 80.0, 10.0)
UNEVEN = np.array([20.0, 29.0, 42.3, 50.0, 61.5, 70.0])
LONG = np.linspace(26.4, 145.2, 10)
"""Ten echoes, evenly spaced."""


def words(echo_time: np.ndarray) -> str:
    """Name an echo train in the acceptance table."""
    even = np.ptp(np.diff(echo_time)) < 1e-9
    return f"{len(echo_time)} echoes, {'even' if even else 'uneven'} spacing"


def rician(signal: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    real = signal + sigma * rng.standard_normal(signal.shape)
    return np.hypot(real, sigma * rng.standard_normal(signal.shape))


def decay(echo_time: np.ndarray, t2: np.ndarray) -> np.ndarray:
    return np.exp(-echo_time[:, None] / t2)


def six_classes(echo_time: np.ndarray, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Signals (echo, voxel) as scanners store them, float32, `count` of each class."""
    rng = np.random.default_rng(seed)

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, count)

    amplitude, share = draw(200, 2000), draw(0.2, 0.8)
    two = share * decay(echo_time, draw(3, 12)) + (1 - share) * decay(echo_time, draw(40, 200))
    clean = {
        "cartilage": (decay(echo_time, draw(20, 60)), draw(20, 60)),
        "fluid": (decay(echo_time, draw(150, 1500)), draw(20, 60)),
        "fat and marrow": (decay(echo_time, draw(60, 160)), draw(20, 60)),
        "muscle and meniscus": (decay(echo_time, draw(4, 35)), draw(10, 30)),
        "two components": (two, draw(20, 60)),
        "noise": (np.zeros((len(echo_time), count)), draw(20, 60)),
    }
    return {
        name: rician(amplitude * signal, amplitude / ratio, rng).astype(np.float32)
        for name, (signal, ratio) in clean.items()
    }
