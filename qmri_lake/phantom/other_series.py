"""T1rho, T2* and qDESS images of a synthetic knee, without stimulated echoes and shading."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom.exam_truth import Exam, Setup
from qmri_lake.phantom.grid import MSME_THICKNESS
from qmri_lake.phantom.lattice import Lattice
from qmri_lake.phantom.sampling import N_TISSUES, Tissue, offsets, sample
from qmri_lake.phantom.signal import DENSITY, TISSUE_T2, cartilage_t2

__all__ = ["OTHER_SERIES", "OtherKind", "render_other"]

OtherKind = Literal["t1rho", "t2star", "qdess"]

_T1, _TR, _TE, _FLIP = 1200.0, 18.6, 5.9, 20.0
"""T1 of all tissues [ms], and the acquisition of the qDESS [ms, degrees]."""


class _Kind(NamedTuple):
    """How a series is named and acquired."""

    name: str
    times: tuple[float, ...]
    """Spin-lock or echo times [ms]; spin-lock times are written into EchoTime."""
    factor: float
    """Relaxation time over T2. [assumption]"""
    number: int
    """SeriesNumber."""
    values: dict[str, object]
    """Header values."""


_GRADIENT_ECHO = {
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    "ScanningSequence": ["GR"],
    "SequenceVariant": ["SP"],
    "ScanOptions": [],
    "MRAcquisitionType": "3D",
}

OTHER_SERIES: dict[str, _Kind] = {
    "t1rho": _Kind(
        "SAG_T1RHO",
        (1.0, 10.0, 20.0, 40.0, 80.0),
        1.15,
        21,
        {**_GRADIENT_ECHO, "RepetitionTime": "9", "FlipAngle": "8"},
    ),
    "t2star": _Kind(
        "SAG_T2STAR",
        (4.0, 9.0, 14.0, 19.0, 24.0, 29.0),
        0.6,
        22,
        {**_GRADIENT_ECHO, "RepetitionTime": "36", "FlipAngle": "15"},
    ),
    "qdess": _Kind(
        "SAG_3D_QDESS",
        (_TE, 2 * _TR - _TE),
        1.0,
        23,
        {**_GRADIENT_ECHO, "RepetitionTime": f"{_TR:g}", "FlipAngle": f"{_FLIP:g}"},
    ),
}
"""Series that `qmri_lake.phantom.write_archive` can add to each exam."""


def render_other(
    exam: Exam, at: Setup, lattice: Lattice, kind: OtherKind, *, noise: float
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Return the images (time, slice, row, column) of a series, and the affine of its grid.

    T1rho and T2* are a multiple of T2 and have the grid of the MSME; qDESS has the grid of the
    DESS. `noise` is the standard deviation of each channel of the complex noise, relative to a
    proton density of 1.
    """
    rng = exam.random({"t1rho": 51, "t2star": 52, "qdess": 53}[kind])
    if kind == "qdess":
        affine, shape = at.dess_affine, at.shape
        part = sample(lattice, affine, shape, offsets(2, 2, 2))
    else:
        affine, shape = at.msme_affine, at.msme_shape
        moved = np.linalg.inv(at.dess_to_msme) @ affine
        spacing = float(np.linalg.norm(affine[:3, 0]))
        part = sample(lattice, moved, shape, offsets(5, 2, 2, MSME_THICKNESS / spacing))
    times = OTHER_SERIES[kind].times
    signal = np.zeros((len(times), *shape), np.float32)
    for tissue in range(1, N_TISSUES):
        share = part.fraction[..., tissue]
        here = share > 0
        if tissue == Tissue.CARTILAGE:
            t2 = cartilage_t2(part.depth[here], at.raised).astype(np.float64)
        else:
            t2 = np.full(int(here.sum()), TISSUE_T2[tissue])
        signal[:, here] += _amplitude(kind, t2) * DENSITY[tissue] * share[here]
    gain = 1600.0 if kind != "qdess" else 9000.0
    real = signal + noise * _scale(kind) * rng.standard_normal(signal.shape, np.float32)
    imaginary = noise * _scale(kind) * rng.standard_normal(signal.shape, np.float32)
    image = gain * np.hypot(real, imaginary)
    return np.clip(np.rint(image), 0, 32767).astype(np.int16), affine


def _scale(kind: OtherKind) -> float:
    """Return the signal of a steady state, relative to that after full recovery."""
    return 0.1 if kind == "qdess" else 1.0


def _amplitude(kind: OtherKind, t2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the signal (time, n) of proton density 1, from T2 (n,) in ms."""
    if kind != "qdess":
        times = np.array(OTHER_SERIES[kind].times)[:, None]
        return np.exp(-times / (OTHER_SERIES[kind].factor * t2))
    # The steady state of both echoes (Hänicke & Vogel 2003, Magn Reson Med 49:771).
    cosine, tangent = math.cos(math.radians(_FLIP)), math.tan(math.radians(_FLIP) / 2)
    e1, e2 = math.exp(-_TR / _T1), np.exp(-_TR / t2)
    p = 1 - e1 * cosine - e2**2 * (e1 - cosine)
    q = e2 * (1 - e1) * (1 + cosine)
    root = (1 - e2**2) / np.sqrt(p**2 - q**2)
    first = tangent * (1 - (e1 - cosine) * root) * np.exp(-_TE / t2)
    second = tangent * (1 - (1 - e1 * cosine) * root) * np.exp(_TE / t2)
    return np.stack([first, second])
