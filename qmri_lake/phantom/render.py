"""Render the DESS and MSME series of an exam, slab by slab to limit the memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom.exam_truth import Exam, Setup
from qmri_lake.phantom.grid import MSME_SPACING, MSME_THICKNESS
from qmri_lake.phantom.lattice import Lattice
from qmri_lake.phantom.sampling import offsets, sample
from qmri_lake.phantom.signal import Shading, dess, msme

__all__ = ["DESS_NOISE", "MSME_NOISE", "render_dess", "render_msme"]

DESS_NOISE = 0.026
"""Standard deviation of DESS noise relative to fluid."""

MSME_NOISE = 0.012
"""Standard deviation of MSME noise relative to a proton density of 1."""

_SLAB_VOXELS = 1_000_000


def _slabs(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    return [(i, min(i + step, shape[0])) for i in range(0, shape[0], step)]


def _shifted(affine: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    out = affine.copy()
    out[:3, 3] += start * affine[:3, 0]
    return out


def render_dess(
    exam: Exam, at: Setup, lattice: Lattice, *, spoiled: bool = False, noise: float = DESS_NOISE
) -> NDArray[np.int16]:
    """Return the DESS image (slice, row, column); `spoiled` adds motion ghosts and more noise."""
    rng = exam.random(33 if spoiled else 31)
    coil = Shading.draw(rng)
    gain = float(900 * np.exp(0.25 * rng.normal()))
    out = np.empty(at.shape, np.int16)
    steps = offsets(2, 2, 2)
    for start, stop in _slabs(at.shape):
        part = sample(
            lattice, _shifted(at.dess_affine, start), (stop - start, *at.shape[1:]), steps
        )
        image = dess(
            part.fraction,
            part.texture,
            coil.at(at.shape, start, stop),
            gain=gain,
            noise=noise * (2.0 if spoiled else 1.0),
            rng=rng,
        )
        if spoiled:
            ghost = np.roll(image, at.shape[1] // 9, axis=1) + np.roll(
                image, -at.shape[1] // 7, axis=1
            )
            image = 0.7 * image + 0.25 * ghost
        out[start:stop] = np.clip(np.rint(image), 0, 32767)
    return out


def render_msme(
    exam: Exam,
    at: Setup,
    lattice: Lattice,
    *,
    model: Literal["epg", "mono"],
    spoiled: bool = False,
    noise: float = MSME_NOISE,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the MSME series (echo, slice, row, column) and the T2 map (slice, row, column), ms.

    The T2 map is noise-free. It is NaN in voxels with more than one tissue.
    """
    rng = exam.random(34 if spoiled else 32)
    coil = Shading.draw(rng)
    tilt = Shading.draw(rng, strength=0.2)
    gain = float(1600 * np.exp(0.25 * rng.normal()))
    affine = np.linalg.inv(at.dess_to_msme) @ at.msme_affine
    series, maps = [], []
    steps = offsets(5, 2, 2, MSME_THICKNESS / MSME_SPACING)
    for start, stop in _slabs(at.msme_shape):
        part = sample(lattice, _shifted(affine, start), (stop - start, *at.msme_shape[1:]), steps)
        echoes, t2 = msme(
            part.fraction,
            part.depth,
            part.texture,
            coil.at(at.msme_shape, start, stop),
            np.clip(0.95 * tilt.at(at.msme_shape, start, stop), 0.8, 1.1),
            model=model,
            raised=at.raised,
            gain=gain,
            noise=noise * (5.0 if spoiled else 1.0),
            rng=rng,
        )
        series.append(echoes)
        maps.append(t2)
    return np.concatenate(series, axis=1), np.concatenate(maps)
