"""Sample a knee on any image grid: labels, tissue fractions and cartilage depth of every voxel.

Voxels near a boundary are divided into sub-samples (partial volume); other voxels are sampled at
their centre. Importing this module imports numba.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmri_lake.phantom import sampling_numba as kernels
from qmri_lake.phantom.lattice import Lattice

__all__ = ["N_TISSUES", "Sampled", "Tissue", "interpolate", "offsets", "sample", "walk"]


class Tissue(IntEnum):
    """Tissues along the last axis of `Sampled.fraction`."""

    AIR = 0
    MARROW = 1
    CORTEX = 2
    CARTILAGE = 3
    MENISCUS = 4
    FLUID = 5
    MUSCLE = 6
    FAT = 7
    TENDON = 8
    SKIN = 9
    VESSEL = 10


N_TISSUES = len(Tissue)


class Sampled(NamedTuple):
    """Voxels of a grid, in the shape of the grid."""

    bone: NDArray[np.uint8]
    """0 background, 1 femur, 2 tibia, 3 patella."""
    cartilage: NDArray[np.uint8]
    """0 background, 1 femoral, 2 tibial, 3 patellar, 4 meniscus."""
    fraction: NDArray[np.float32]
    """(..., 11) volume fractions; (..., 0) if soft tissues were not evaluated."""
    depth: NDArray[np.float32]
    """Mean relative depth in cartilage: 0 at the bone, 1 at the surface; NaN without cartilage."""
    share: NDArray[np.float32]
    """Volume fraction of the cartilage of all bones together."""
    texture: NDArray[np.float32]
    """Standard normal texture at the centre of the voxel; empty without soft tissues."""


def offsets(slice_: int, row: int, column: int, thickness: float = 1.0) -> NDArray[np.float32]:
    """Return sub-sample positions (n, 3) in voxels, relative to the centre of a voxel.

    `thickness` is the excited fraction of the slice spacing.
    """
    axes = [(np.arange(n) + 0.5) / n - 0.5 if n > 1 else np.zeros(1) for n in (slice_, row, column)]
    axes[0] = axes[0] * thickness
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([g.ravel() for g in grid], axis=-1).astype(np.float32)


def sample(
    lattice: Lattice,
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    steps: NDArray[np.float32],
) -> Sampled:
    """Sample a knee on a grid.

    Parameters
    ----------
    lattice : Lattice
        The knee. Soft tissue fractions are returned if the lattice contains soft tissues.
    affine : (4, 4) float64
        Voxel (slice, row, column) to the world coordinates of the lattice (LPS, mm).
    shape : (slices, rows, columns)
    steps : (n, 3) float32
        Sub-sample positions in voxels, as returned by `offsets`.
    """
    matrix = (lattice.from_world() @ affine)[:3].astype(np.float32)
    reach = np.linalg.norm(affine[:3, :3] @ steps.T.astype(np.float64), axis=0).max()
    soft = lattice.values.shape[-1] > 8
    out = Sampled(
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.uint8),
        np.zeros((*shape, N_TISSUES if soft else 0), np.float32),
        np.full(shape, np.nan, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape if soft else (0, 0, 0), np.float32),
    )
    film = np.float32(0.35 + 0.5 * lattice.effusion)
    kernels.sample_voxels(lattice.values, matrix, steps, np.float32(1.15 * reach), film, *out)
    return out


def interpolate(lattice: Lattice, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return all channels (n, channel) at points (n, 3) in LPS mm."""
    m = lattice.from_world()
    index = (points @ m[:3, :3].T + m[:3, 3]).astype(np.float32)
    return np.asarray(kernels.interpolate_points(lattice.values, index, lattice.values.shape[-1]))


def walk(
    lattice: Lattice, points: NDArray[np.float64], normals: NDArray[np.float64], label: int
) -> NDArray[np.float32]:
    """Return the cartilage thickness (mm) at bone surface points, along the outward normals.

    `label` is 4 (femoral), 5 (tibial) or 6 (patellar). The path ends where another tissue begins.
    """
    m = lattice.from_world()
    index = (points @ m[:3, :3].T + m[:3, 3]).astype(np.float32)
    direction = (normals / lattice.spacing).astype(np.float32)
    return np.asarray(
        kernels.walk_normals(
            lattice.values, index, direction, label, np.float32(0.05), 9.0, np.float32(0)
        )
    )
