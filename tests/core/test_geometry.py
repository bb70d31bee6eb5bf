"""Grids of voxels: positions, spacing, orientation and comparison."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from qmri_lake.core.geometry import VoxelGrid, voxel_spacing

SAGITTAL = np.array(
    [[-3.0, 0.0, 0.0, 40.0], [0.0, 0.0, 0.5, -60.0], [0.0, -0.4, 0.0, 70.0], [0.0, 0.0, 0.0, 1.0]]
)
"""Slices to the right, rows downwards, columns to the back."""


@pytest.fixture
def grid() -> VoxelGrid:
    return VoxelGrid((10, 20, 30), SAGITTAL)


def test_voxel_grid__spacing_volume_and_text(grid):
    assert grid.spacing.tolist() == [3.0, 0.4, 0.5]
    assert grid.voxel_volume == pytest.approx(0.6)
    assert str(grid) == "10 x 20 x 30 voxels of 3 x 0.4 x 0.5 mm"
    assert repr(grid) == f"<VoxelGrid: {grid}, RIP>"


def test_voxel_grid__index_and_position_are_inverse(grid):
    index = np.array([[0, 0, 0], [9, 19, 29], [1.5, 2.25, 0.75]])
    world = grid.to_world(index)
    assert world[0].tolist() == [40.0, -60.0, 70.0]
    assert world[1] == pytest.approx([13.0, -45.5, 62.4])
    assert grid.to_index(world) == pytest.approx(index)


def test_voxel_grid__corners_bound_all_voxels(grid):
    voxels = grid.to_world(np.argwhere(np.ones(grid.shape)))
    assert grid.corners.shape == (8, 3)
    assert np.allclose(grid.corners.min(axis=0), voxels.min(axis=0))
    assert np.allclose(grid.corners.max(axis=0), voxels.max(axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_voxel_grid__orientation_is_that_of_nibabel(seed):
    rng = np.random.default_rng(seed)
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = (axes + rng.uniform(-0.1, 0.1, (3, 3))) * [3.0, 0.4, 0.5]
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    assert tuple(VoxelGrid((2, 2, 2), affine).orientation) == nibabel.aff2axcodes(ras)
    assert np.allclose(voxel_spacing(affine), nibabel.affines.voxel_sizes(ras))


def test_voxel_grid__match(grid):
    moved = SAGITTAL.copy()
    moved[0, 3] += 0.009
    assert grid.match(VoxelGrid(grid.shape, moved))
    assert not grid.match(VoxelGrid(grid.shape, moved), tolerance=0.008)
    assert not grid.match(VoxelGrid((10, 20, 31), SAGITTAL))
    coarser = SAGITTAL.copy()
    coarser[1, 2] += 0.001  # 0.029 mm at the last column
    assert not grid.match(VoxelGrid(grid.shape, coarser))
