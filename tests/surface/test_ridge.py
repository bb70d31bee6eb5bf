"""Thickness and volume of thick cartilage on the ridge of a patella, whose truth has a formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_lake.surface.mesh import mask_mesh, ray_thickness
from qmri_lake.surface.occupancy import occupancy_of
from qmri_lake.surface.ray_marching_numba import SIGMA_MM
from qmri_lake.surface.spherical_grid import frame
from qmri_lake.surface.spherical_maps import cast_rays
from qmri_lake.surface.surface_points import surface_points
from tests.conftest import Judge
from tests.surface.solids import grid, places

SLOPE = np.radians(25)
"""Each facet is turned by this angle from the coronal plane, so they enclose 130 degrees."""
FACET, LENGTH, RADIUS = 11.0, 26.0, 2.0
"""mm: width of the cartilage on a facet, its length along the ridge, radius of the bone's ridge."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def place_on_ridge(points: Floats) -> tuple[Floats, Floats]:
    """Return the distance to the centre line of the rounded bone, and the place along a facet, mm.

    The bone is the triangle between two planes, dilated by `RADIUS`. The place is the distance of
    the foot from the apex of the triangle; it is negative over the ridge.
    """
    x, y = np.abs(points[..., 0]), points[..., 1] - 6
    along = np.cos(SLOPE) * x - np.sin(SLOPE) * y
    above = np.sin(SLOPE) * x + np.cos(SLOPE) * y
    return np.where(along < 0, np.hypot(x, y), above), along


def patella(thickness: float, affine: Floats, shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Return a patella with a median ridge, and cartilage of the same thickness everywhere."""
    p = places(affine, shape)
    distance, along = place_on_ridge(p)
    z = np.abs(p[..., 2])
    bone = (distance < RADIUS) & (along < 16) & (p[..., 1] > -2) & (z < LENGTH / 2 + 3)
    over = (distance >= RADIUS) & (distance < RADIUS + thickness)
    return bone, over & (along < FACET) & (z < LENGTH / 2) & (p[..., 1] > -2)


@pytest.mark.accept
@pytest.mark.parametrize("thickness", [1.0, 2.0, 4.0, 7.0])
def test_surface_points__thick_cartilage_on_a_ridge(thickness: float, judge: Judge) -> None:
    affine, shape = grid(26, turn=0.3, shift=0.13)
    bone, cartilage = patella(thickness, affine, shape)
    occupancy = occupancy_of(bone, cartilage, affine, "patella", frame("right"))
    points = surface_points(occupancy, cast_rays(occupancy, "patella"), "patella")
    distance, along = place_on_ridge(points.place)
    inner = (np.abs(points.place[:, 2]) < LENGTH / 2 - 4) & (np.abs(distance - RADIUS) < 0.5)
    ridge, facet = inner & (along < 0), inner & (along > 3) & (along < FACET - 4)
    error = {
        name: np.average(points.thickness[there], weights=points.area[there]) - thickness
        for name, there in (("ridge", ridge), ("facets", facet))
    }
    # A mesh of the same masks, and rays along its normals: another method.
    mesh = mask_mesh(bone, affine)
    distance, along = place_on_ridge(mesh.points)
    inner = (np.abs(mesh.points[:, 2]) < LENGTH / 2 - 4) & (np.abs(distance - RADIUS) < 0.5)
    rays = ray_thickness(mesh, mask_mesh(cartilage, affine))[inner & (along < FACET - 4)]

    # The volume below a parallel surface is that of Steiner's formula. The Gaussian curvature is 0,
    # and the mean curvature is 1 / (2 radius) on the ridge, 0 on the facets.
    width = 2 * FACET + 2 * SLOPE * RADIUS
    volume = LENGTH * (width * thickness + SLOPE * thickness**2)
    # At the rim, a half of the smoothed cartilage lies over bare bone, where it does not count.
    rim = SIGMA_MM / np.sqrt(2 * np.pi) * 2 * (width + LENGTH)
    expected = thickness * (LENGTH * width - rim) / volume
    share = float((points.thickness * points.area).sum()) / occupancy.volume
    judge(
        f"patella / a ridge of 130 degrees and {RADIUS:g} mm, cartilage of {thickness:g} mm",
        required="bias below 0.1 mm on the ridge, 0.05 mm on the facets; thickness x area / "
        f"volume {expected:.3f} within 0.01",
        measured=f"ridge {error['ridge']:+.3f}, facets {error['facets']:+.3f} mm; {share:.3f}; "
        f"rays through meshes {rays.mean() - thickness:+.2f} mm",
        passed=abs(error["ridge"]) < 0.1
        and abs(error["facets"]) < 0.05
        and abs(share - expected) < 0.01,
    )
    assert occupancy.volume == pytest.approx(volume, rel=0.01)
