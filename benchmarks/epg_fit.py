"""Compare the fit by extended phase graphs with scipy's least-squares fit of each voxel.

Usage: python -m benchmarks.epg_fit

Both fit the same model, with imperfect refocusing, to the same signals: seven echoes, T2 of 20 to
60 ms, SNR of 50 to 100, refocusing angles of 130 to 180 degrees, Rician noise. The time of the
mono-exponential fit, and its bias caused by stimulated echoes, are also printed; it skips the first
echo, which is the default. Times are CPU seconds of this process, the best of two interleaved
repeats; only their ratios are meaningful.
"""

from __future__ import annotations

import os
import platform

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.timing import best
from qmri_lake.relaxometry import fit_epg, fit_mono_exponential
from qmri_lake.relaxometry.epg import T1
from qmri_lake.relaxometry.epg_dictionary import LOWEST_B1, echo_train

ECHO_TIME = np.arange(10.0, 80.0, 10.0)
VOXELS, SLOW = 20_000, 200
"""Number of voxels that this package fits, and number of voxels that scipy also fits."""
LEAKAGE = float(np.cos(LOWEST_B1 * np.pi / 2) ** 2)


def train(t2: NDArray, leakage: NDArray) -> NDArray:
    return echo_train(t2, leakage, spacing=10.0, echoes=len(ECHO_TIME), t1=T1)


def signals() -> tuple[NDArray, NDArray]:
    """Return magnitudes (echo, voxel) and the true T2 [ms] (voxel)."""
    rng = np.random.default_rng(0)
    amplitude, t2, snr, angle = (
        rng.uniform(*ends, VOXELS) for ends in ((200, 2000), (20, 60), (50, 100), (130, 180))
    )
    clean = amplitude * train(t2, np.cos(np.deg2rad(angle) / 2) ** 2).T
    real, imaginary = amplitude / snr * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + real, imaginary), t2


def scipy_fit(signal: NDArray) -> NDArray:
    """Return T2, leakage and S0 (3, voxel), fitted for each voxel from one starting point."""
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
        "scipy per voxel": lambda: scipy_fit(few),
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
        "scipy per voxel": scipy_fit(few)[0],
    }
    for name, value in each.items():
        error = t2[name] - true[: len(t2[name])]
        known = np.isfinite(error)
        print(
            f"{name:22s} {value:10.2f} us per voxel, {each['scipy per voxel'] / value:8,.1f}x; "
            f"T2 bias {error[known].mean():+.2f}, RMSE {np.sqrt((error[known] ** 2).mean()):.2f} ms"
            f", missing {1 - known.mean():.1%}"
        )
    difference = np.abs(ours[:SLOW] - t2["scipy per voxel"])
    difference = difference[np.isfinite(difference)]
    print(
        f"T2 of scipy and ours: median difference {np.median(difference):.1e} ms, 95 % within "
        f"{np.quantile(difference, 0.95):.1e} ms, largest {difference.max():.1e} ms in "
        f"{len(difference)} voxels"
    )


if __name__ == "__main__":
    main()
