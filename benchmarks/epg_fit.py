"""The fit by extended phase graphs: ours against scipy's least squares of each voxel, side by side.

Usage: python -m benchmarks.epg_fit

Both fit the same model, with imperfect refocusing, to the same saved signals: seven echoes of
cartilage of 20 to 60 ms at an SNR of 50 to 100, refocusing pulses of 130 to 180 degrees, Rician
noise. The mono-exponential fit gets the echoes without the first, as its default is, and is there
for its time and for the bias that stimulated echoes give it. Times are CPU seconds of this process,
best of two, interleaved; only the ratios mean anything.
"""

from __future__ import annotations

import os
import platform

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.timing import best
from qmri_lake.relaxometry import fit_epg, fit_mono_exponential
from qmri_lake.relaxometry.dictionary import LOWEST_B1, echo_train
from qmri_lake.relaxometry.epg import T1

ECHO_TIME = np.arange(10.0, 80.0, 10.0)
VOXELS, SLOW = 20_000, 200
"""Voxels for our fits, and those of them that scipy gets."""
LEAKAGE = float(np.cos(LOWEST_B1 * np.pi / 2) ** 2)


def train(t2: NDArray, leakage: NDArray) -> NDArray:
    return echo_train(t2, leakage, spacing=10.0, echoes=len(ECHO_TIME), t1=T1)


def signals() -> tuple[NDArray, NDArray]:
    """Return magnitudes (echo, voxel) and the T2 that they were made of."""
    rng = np.random.default_rng(0)
    amplitude, t2, snr, angle = (
        rng.uniform(*ends, VOXELS) for ends in ((200, 2000), (20, 60), (50, 100), (130, 180))
    )
    clean = amplitude * train(t2, np.cos(np.deg2rad(angle) / 2) ** 2).T
    real, imaginary = amplitude / snr * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + real, imaginary), t2


def scipy_fit(signal: NDArray) -> NDArray:
    """Return T2, leakage and S0 (3, voxel) of a fit a voxel, from one start."""
    found = [
        least_squares(
            lambda x, y=y: x[2] * y.max() * train(x[0], x[1]) - y,
            (35.0, 0.05, 1.2),
            bounds=((5.0, 0.0, 0.0), (500.0, LEAKAGE, np.inf)),
            x_scale=(10.0, 0.1, 1.0),
            xtol=1e-10,
            ftol=1e-10,
        ).x
        for y in signal.T
    ]
    return np.array(found).T


def main() -> None:
    signal, true = signals()
    few = signal[:, :SLOW]
    actions = {
        "dictionary and Newton": lambda: fit_epg(signal, ECHO_TIME),
        "mono-exponential": lambda: fit_mono_exponential(signal[1:], ECHO_TIME[1:]),
        "scipy a voxel": lambda: scipy_fit(few),
    }
    actions["dictionary and Newton"](), actions["mono-exponential"]()
    seconds = best(actions, 2)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"NumPy {np.__version__}"
    )
    each = {n: 1e6 * s / (SLOW if "scipy" in n else VOXELS) for n, s in seconds.items()}
    ours = fit_epg(signal, ECHO_TIME).t2
    t2 = {
        "dictionary and Newton": ours,
        "mono-exponential": fit_mono_exponential(signal[1:], ECHO_TIME[1:]).t2,
        "scipy a voxel": scipy_fit(few)[0],
    }
    for name, value in each.items():
        error = t2[name] - true[: len(t2[name])]
        known = np.isfinite(error)
        print(
            f"{name:22s} {value:10.2f} us a voxel, {each['scipy a voxel'] / value:8,.1f}x; "
            f"T2 bias {error[known].mean():+.2f}, RMSE {np.sqrt((error[known] ** 2).mean()):.2f} ms"
            f", no value {1 - known.mean():.1%}"
        )
    apart = np.abs(ours[:SLOW] - t2["scipy a voxel"])
    apart = apart[np.isfinite(apart)]
    print(
        f"T2 of scipy and ours: median distance {np.median(apart):.1e} ms, 95 % within "
        f"{np.quantile(apart, 0.95):.1e} ms, largest {apart.max():.1e} ms in {len(apart)} voxels"
    )


if __name__ == "__main__":
    main()
