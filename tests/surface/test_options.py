"""The options of a spherical map: another method, axes of the bone's own, a template."""

from __future__ import annotations

import numpy as np

from qmri_lake.surface import SURFACE_STATUS, directions, spherical_map
from tests.conftest import Judge
from tests.surface.solids import RIM, ball, grid, places, uneven

RIGHT = {"bone_name": "femur", "knee": "right"}


def test_spherical_map__nearest_distance_to_the_articular_surface(judge: Judge) -> None:
    affine, shape = grid(25, shift=0.11)
    bone, _ = ball("femur", 20, 2, affine, shape)
    p = places(affine, shape)
    # A ball of cartilage that is not concentric: its nearest surface is not that of the normal.
    shift = np.array([1.5, 0, -1.5])
    cartilage = ~bone & (np.linalg.norm(p - shift, axis=-1) < 22) & (p[..., 2] < -RIM * 22)
    found = spherical_map(bone, cartilage, affine, **RIGHT, method="nearest")
    along = spherical_map(bone, cartilage, affine, **RIGHT)
    points = np.array(found.centre) + found.bone_shape.values[..., None] * directions("femur")
    true = 22 - np.linalg.norm(points - shift, axis=-1)
    deep = (points[..., 2] < -RIM * 22 - 5) & (true > 0.8)
    error = (found.thickness.values - true)[deep]
    judge(
        "spherical map / method nearest, an eccentric shell of 0.8 to 4 mm",
        required="bias < 0.10, RMSE < 0.12 mm",
        measured=f"bias {error.mean():.3f}, RMSE {np.sqrt((error**2).mean()):.3f} mm",
        passed=abs(error.mean()) < 0.10 and np.sqrt((error**2).mean()) < 0.12,
    )
    assert (found.surface_status == along.surface_status).all()
    assert (along.thickness - found.thickness).values[deep].min() > -0.2


def test_spherical_map__axes_of_the_bone_itself() -> None:
    affine, shape = grid(34)
    masks = uneven(affine, shape)
    still = spherical_map(*masks, affine, **RIGHT)
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    for knee in ("right", "left"):
        mirror = np.diag([1.0 if knee == "right" else -1.0, 1, 1])
        moved = np.eye(4)
        moved[:3, :3] = turn @ mirror
        # The bone was turned with its grid, so its own axes are those of the scanner, turned.
        found = spherical_map(*masks, moved @ affine, bone_name="femur", knee=knee, axes=turn.T)
        for name in ("bone_shape", "thickness", "area"):
            np.testing.assert_allclose(found[name], still[name], atol=1e-4)
        np.testing.assert_allclose(found.centre, turn @ mirror @ still.centre, atol=1e-6)
    other = spherical_map(*masks, moved @ affine, bone_name="femur", knee="left")
    assert float(np.abs(other.bone_shape - still.bone_shape).max()) > 1


def test_spherical_map__a_template_says_what_is_denuded() -> None:
    affine, shape = grid(25)
    bone, cartilage = ball("femur", 20, 2, affine, shape)
    p = places(affine, shape)
    template = spherical_map(bone, cartilage, affine, **RIGHT).surface_status == 1
    worn = cartilage & ~(p[..., 0] > 2)
    found = spherical_map(bone, worn, affine, **RIGHT, articular=template)
    bare = found.surface_status == SURFACE_STATUS["denuded"]
    whole = float(found.area.where(template).sum())
    assert 0.35 < float(found.area.where(bare).sum()) / whole < 0.5
    assert (found.thickness.where(bare, 0) == 0).all()
    # Without it the bare half has an edge, and nobody can know that it was ever covered.
    closed = spherical_map(bone, worn, affine, **RIGHT)
    assert float(closed.area.where(closed.surface_status == 2).sum()) < 0.02 * whole
