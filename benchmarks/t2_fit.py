"""The T2 fit: ours against DOSMA's and scipy's per voxel, side by side.

Usage: python -m benchmarks.t2_fit [--dosma PYTHON | --without-dosma]

DOSMA 0.1.2 needs numpy < 2: without PYTHON, an interpreter that has it, a throwaway environment is
built by pip. Every fit gets the same saved signals: cartilage of 20 to 60 ms at an SNR of 20 to 60,
Rician noise, the six echoes of an OAI examination that are left without the first. Times are CPU
seconds of each process, best of five, interleaved; only the ratios mean anything.
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
from qmri_lake.relaxometry.vectorised import fit_arrays

ECHO_TIME = np.arange(20.0, 80.0, 10.0)
UNEVEN = np.array([20.0, 29.0, 42.3, 50.0, 61.5, 70.0])
VOXELS, SLOW = 200_000, 1_000
"""Voxels for our fits, and those of them that the fits of one voxel at a time get."""
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
    """Return magnitudes (echo, voxel) as scanners store them, float32."""
    rng = np.random.default_rng(0)
    amplitude, t2, snr = (rng.uniform(*ends, count) for ends in ((200, 2000), (20, 60), (20, 60)))
    clean = amplitude * np.exp(-echo_time[:, None] / t2)
    real, imaginary = amplitude / snr * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + real, imaginary).astype(np.float32)


def model(t: np.ndarray, s0: float, t2: float) -> np.ndarray:
    return s0 * np.exp(-t / t2)


def scipy_fit(signal: np.ndarray) -> np.ndarray:
    voxels = signal.T.astype(np.float64)
    with np.errstate(over="ignore"):  # steps of the fit far from any T2
        return np.array([curve_fit(model, ECHO_TIME, y, p0=(y[0], 35.0))[0][1] for y in voxels])


def timed(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def dosma_environment(folder: Path) -> str:
    """Build the environment and return its interpreter."""
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


def ask(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    lines = str(said).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def compare(dosma: subprocess.Popen[str] | None, signal: np.ndarray) -> dict[str, float]:
    """Return microseconds a voxel, by name of the fit."""
    uneven = signals(UNEVEN, VOXELS)
    few = signal[:, :SLOW]
    cases: dict[str, tuple[int, Callable[[], float]]] = {
        "compiled": (VOXELS, lambda: timed(lambda: fit_mono_exponential(signal, ECHO_TIME))),
        "compiled, uneven echoes": (
            VOXELS, lambda: timed(lambda: fit_mono_exponential(uneven, UNEVEN))),
        "array operations, NumPy": (
            VOXELS,
            lambda: timed(
                lambda: fit_arrays(signal, ECHO_TIME, None, 0.0, np.inf, -np.inf)),
        ),
        "scipy curve_fit a voxel": (SLOW, lambda: timed(lambda: scipy_fit(few))),
    }  # fmt: skip
    if dosma is not None:
        cases["DOSMA polyfit a voxel"] = (SLOW, lambda: ask(dosma))
    for _, case in cases.values():  # compile, import, warm the caches
        case()
    best = dict.fromkeys(cases, np.inf)
    for _ in range(REPEATS):
        for name, (count, case) in cases.items():
            best[name] = min(best[name], 1e6 * case() / count)
    return best


def report(best: dict[str, float]) -> None:
    peers = [name for name in best if name.endswith("a voxel")]
    print(f"{'':26s} {'us a voxel':>10s}  " + "  ".join(f"{'against ' + p:>30s}" for p in peers))
    for name, value in best.items():
        ratios = "  ".join(f"{best[peer] / value:29,.1f}x" for peer in peers)
        print(f"{name:26s} {value:10.3f}  {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dosma", metavar="PYTHON")
    parser.add_argument("--without-dosma", action="store_true")
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
                ask(dosma)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            dosma = None
            print(f"DOSMA can't be run ({reason(error)}): scipy's curve_fit stands in for it")
        best = compare(dosma, signal)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, one process on one core, "
            f"Python {platform.python_version()}, NumPy {np.__version__}"
        )
        report(best)
        ours = fit_mono_exponential(signal[:, :SLOW], ECHO_TIME, bounds=(0, 100), r2_min=0.9).t2
        apart = [("scipy", scipy_fit(signal[:, :SLOW]))]
        if dosma is not None:
            apart.append(("DOSMA", np.load(folder / "dosma.npy")))
            dosma.communicate()
        for peer, t2 in apart:
            both = np.isfinite(ours) & (t2 > 0)  # DOSMA writes 0 for no value
            distance = np.abs(ours - t2)[both]
            print(f"T2 of {peer} and ours: median distance {np.median(distance):.1e} ms, "
                  f"largest {distance.max():.1e} ms in {both.sum():,} voxels")  # fmt: skip


if __name__ == "__main__":
    main()
