"""Compare the T2 fit with the fits of single voxels by DOSMA and scipy.

Usage: python -m benchmarks.t2_fit [--dosma PYTHON | --without-dosma]

DOSMA 0.1.2 needs numpy < 2. PYTHON is an interpreter with DOSMA. If it is not given, pip installs
DOSMA into a temporary environment. All fits use the same signals: T2 of 20 to 60 ms, SNR of 20 to
60, Rician noise, and six echo times of an OAI exam (all but the first). Times are CPU seconds of
each process, the best of five interleaved repeats; only their ratios are meaningful.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit

from qmri_lake.relaxometry import fit_mono_exponential
from qmri_lake.relaxometry._array_api import fit_arrays

ECHO_TIME = np.arange(20.0, 80.0, 10.0)
UNEVEN = np.array([20.0, 29.0, 42.3, 50.0, 61.5, 70.0])
VOXELS, SLOW = 200_000, 1_000
"""Number of voxels that this package fits, and number of voxels for the fits of single voxels."""
REPEATS = 5

DOSMA = """
import sys, time
import numpy as np
from dosma.core.fitting import MonoExponentialFit
from dosma.core.med_volume import MedicalVolume

folder, count = sys.argv[1], int(sys.argv[2])
times, signal = np.load(folder + "/times.npy"), np.load(folder + "/signal.npy")[:, :count]
echoes = [MedicalVolume(e.reshape(-1, 1, 1).astype(np.float64), np.eye(4)) for e in signal]
fitter = MonoExponentialFit(tc0="polyfit", decimal_precision=None)
for _ in sys.stdin:
    start = time.process_time()
    t2, _ = fitter.fit(times, echoes)
    print(time.process_time() - start, flush=True)
    np.save(folder + "/dosma.npy", t2.volume.ravel())
"""


def signals(echo_time: np.ndarray, count: int) -> np.ndarray:
    """Return float32 magnitudes (echo, voxel)."""
    rng = np.random.default_rng(0)
    amplitude, t2, snr = (rng.uniform(*ends, count) for ends in ((200, 2000), (20, 60), (20, 60)))
    clean = amplitude * np.exp(-echo_time[:, None] / t2)
    real, imaginary = amplitude / snr * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + real, imaginary).astype(np.float32)


def model(t: np.ndarray, s0: float, t2: float) -> np.ndarray:
    return s0 * np.exp(-t / t2)


def scipy_fit(signal: np.ndarray) -> np.ndarray:
    voxels = signal.T.astype(np.float64)
    with np.errstate(over="ignore"):  # the optimiser may try values far from any T2
        return np.array([curve_fit(model, ECHO_TIME, y, p0=(y[0], 35.0))[0][1] for y in voxels])


def timed(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def dosma_environment(folder: Path) -> str:
    """Create a Python environment with DOSMA, and return its interpreter."""
    python = folder / "environment" / "bin" / "python"
    commands = (
        [sys.executable, "-m", "venv", str(folder / "environment")],
        [str(python), "-m", "pip", "install", "--quiet", "dosma==0.1.2", "numpy<2"],
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return str(python)


def start_dosma(python: str | None, folder: Path) -> subprocess.Popen[str]:
    python = python or dosma_environment(folder)
    command = [python, "-W", "ignore", "-c", DOSMA, str(folder), str(SLOW)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def time_dosma(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def reason(error: Exception) -> str:
    message = getattr(error, "stderr", None) or str(error)
    lines = str(message).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def compare(dosma: subprocess.Popen[str] | None, signal: np.ndarray) -> dict[str, float]:
    """Return the time per voxel [us] by the name of the fit."""
    uneven = signals(UNEVEN, VOXELS)
    few = signal[:, :SLOW]
    cases: dict[str, tuple[int, Callable[[], float]]] = {
        "compiled": (VOXELS, lambda: timed(lambda: fit_mono_exponential(signal, ECHO_TIME))),
        "compiled, uneven echoes": (
            VOXELS,
            lambda: timed(lambda: fit_mono_exponential(uneven, UNEVEN)),
        ),
        "array operations, NumPy": (
            VOXELS,
            lambda: timed(lambda: fit_arrays(signal, ECHO_TIME, None, 0.0, np.inf, -np.inf)),
        ),
        "scipy curve_fit per voxel": (SLOW, lambda: timed(lambda: scipy_fit(few))),
    }
    if dosma is not None:
        cases["DOSMA polyfit per voxel"] = (SLOW, lambda: time_dosma(dosma))
    for _, case in cases.values():  # compile, import, warm the caches
        case()
    best = dict.fromkeys(cases, np.inf)
    for _ in range(REPEATS):
        for name, (count, case) in cases.items():
            best[name] = min(best[name], 1e6 * case() / count)
    return best


def report(best: dict[str, float]) -> None:
    peers = [name for name in best if name.endswith("per voxel")]
    print(f"{'':26s} {'us / voxel':>10s}  " + "  ".join(f"{'vs ' + p:>30s}" for p in peers))
    for name, value in best.items():
        ratios = "  ".join(f"{best[peer] / value:29,.1f}x" for peer in peers)
        print(f"{name:26s} {value:10.3f}  {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dosma", metavar="PYTHON", help="interpreter with DOSMA")
    parser.add_argument("--without-dosma", action="store_true", help="do not run DOSMA")
    options = parser.parse_args()
    signal = signals(ECHO_TIME, VOXELS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "signal.npy", signal)
        np.save(folder / "times.npy", ECHO_TIME)
        dosma = None
        try:
            if not options.without_dosma:
                dosma = start_dosma(options.dosma, folder)
                time_dosma(dosma)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            dosma = None
            print(f"DOSMA cannot be run ({reason(error)}); only scipy's curve_fit is compared")
        best = compare(dosma, signal)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, one process on one core, "
            f"Python {platform.python_version()}, NumPy {np.__version__}"
        )
        report(best)
        ours = fit_mono_exponential(signal[:, :SLOW], ECHO_TIME, bounds=(0, 100), r2_min=0.9).t2
        peer_t2 = [("scipy", scipy_fit(signal[:, :SLOW]))]
        if dosma is not None:
            peer_t2.append(("DOSMA", np.load(folder / "dosma.npy")))
            dosma.communicate()
        for peer, t2 in peer_t2:
            both = np.isfinite(ours) & (t2 > 0)  # DOSMA returns 0 if there is no value
            difference = np.abs(ours - t2)[both]
            print(
                f"T2 of {peer} and ours: median difference {np.median(difference):.1e} ms, "
                f"largest {difference.max():.1e} ms in {both.sum():,} voxels"
            )


if __name__ == "__main__":
    main()
