"""Spherical maps against bodies whose truth has a formula."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.surface import SURFACE_STATUS, directions, spherical_map
from tests.conftest import Judge
from tests.surface.solids import POLE, RIM, ball, femur_with_shaft, grid, places, uneven

M = np.diag([-1.0, 1.0, 1.0, 1.0])


def truth(found: xr.Dataset, bone: str, radius: float) -> tuple[NDArray, NDArray]:
    """Return the distance to the ball from the map's centre, and mm to the cartilage's rim."""
    rays, centre = directions(bone), np.array(found.attrs["centre"])
    along = rays @ centre
    rho = -along + np.sqrt(along**2 + radius**2 - centre @ centre)
    points = centre + rho[..., None] * rays
    angle = np.arccos(points @ np.array(POLE[bone], float) / radius)
    return rho, radius * (np.arccos(RIM) - angle)


@pytest.mark.slow
@pytest.mark.parametrize("bone", POLE)
@pytest.mark.parametrize("thickness", [1.0, 2.0, 4.0])
def test_spherical_map__shells(bone: str, thickness: float, judge: Judge) -> None:
    radius = 20.0
    affine, shape = grid(radius + thickness + 2, shift=0.17)
    found = spherical_map(
        *ball(bone, radius, thickness, affine, shape), affine, bone_name=bone, knee="right"
    )
    rho, inside = truth(found, bone, radius)
    error = found.thickness.values - thickness
    inner, rim = error[inside >= 4], error[(inside > 1) & (inside < 4)]
    shape_error = (found.bone_shape.values - rho)[inside >= 4]
    bias, rmse = inner.mean(), np.sqrt((inner**2).mean())
    form = np.sqrt((shape_error**2).mean())
    judge(
        f"spherical map / {bone}, shell of {thickness:g} mm on a ball of {radius:g} mm",
        required="4 mm inside the rim: thickness bias < 0.02, RMSE < 0.08; shape RMSE < 0.2 mm",
        measured=f"bias {bias:.3f}, RMSE {rmse:.3f}; shape {form:.3f} mm; in the rim "
        + (f"RMSE {np.sqrt(np.nanmean(rim**2)):.2f}" if rim.size else "no pixel"),
        passed=abs(bias) < 0.02 and rmse < 0.08 and form < 0.2,
    )
    assert (found.surface_status.values[inside >= 1] == SURFACE_STATUS["covered"]).all()
    assert (found.surface_status.values[inside < -2] == SURFACE_STATUS["not_articular"]).all()
    assert np.isnan(found.thickness.values[inside < -2]).all()
    covered = float(found.area.where(found.surface_status == SURFACE_STATUS["covered"]).sum())
    if bone != "tibia":  # whose window is smaller than the shell
        assert covered == pytest.approx(2 * np.pi * radius**2 * (1 - RIM), rel=0.02)


@pytest.mark.slow
def test_spherical_map__an_ellipsoid_with_uneven_cartilage(judge: Judge) -> None:
    radii = np.array([36.0, 26.0, 28.0])
    affine, shape = grid(41)

    def level(p: NDArray) -> NDArray:
        return np.linalg.norm(p / radii, axis=-1)

    def within(p: NDArray) -> NDArray:
        # Where cartilage of a thickness that changes along x ends, to first order in depth.
        slope = np.linalg.norm(p / radii**2, axis=-1) / np.maximum(level(p), 1e-9)
        return level(p) - 1 < (2.5 + np.sin(p[..., 0] / 9)) * slope

    p = places(affine, shape)
    low = p[..., 2] < -0.3 * np.linalg.norm(p, axis=-1)
    found = spherical_map(
        level(p) < 1, (level(p) >= 1) & within(p) & low, affine, bone_name="femur", knee="right"
    )
    rays, centre = directions("femur"), np.array(found.attrs["centre"])
    a = ((rays / radii) ** 2).sum(-1)
    b = ((rays / radii) * (centre / radii)).sum(-1)
    rho = (-b + np.sqrt(b**2 - a * (((centre / radii) ** 2).sum() - 1))) / a
    points = centre + rho[..., None] * rays
    normal = points / radii**2
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    inside, outside = np.zeros(rho.shape), np.full(rho.shape, 8.0)
    for _ in range(20):  # bisect the true thickness, along the true normal
        middle = (inside + outside) / 2
        still = within(points + middle[..., None] * normal)
        inside, outside = np.where(still, middle, inside), np.where(still, outside, middle)
    deep = points[..., 2] < -0.3 * np.linalg.norm(points, axis=-1) - 4.5
    shape_error = (found.bone_shape.values - rho)[deep]
    error = (found.thickness.values - inside)[deep]
    rmse, form = np.sqrt((error**2).mean()), np.sqrt((shape_error**2).mean())
    judge(
        "spherical map / ellipsoid 36 x 26 x 28 mm, cartilage 1.5 to 3.5 mm",
        required="4 mm inside the rim: thickness bias < 0.02, RMSE < 0.08; shape RMSE < 0.2 mm",
        measured=f"bias {error.mean():.3f}, RMSE {rmse:.3f}; shape {form:.3f} mm",
        passed=abs(error.mean()) < 0.02 and rmse < 0.08 and form < 0.2,
    )


@pytest.mark.slow
def test_spherical_map__a_mirrored_knee_called_left_is_the_same(judge: Judge) -> None:
    affine, shape = grid(34, shift=0.11)
    bone, cartilage = uneven(affine, shape)
    right = spherical_map(bone, cartilage, affine, bone_name="femur", knee="right")
    kept = spherical_map(bone, cartilage, M @ affine, bone_name="femur", knee="left")
    flip = np.eye(4)
    flip[0, 0], flip[0, 3] = -1, shape[0] - 1
    flipped = spherical_map(
        bone[::-1], cartilage[::-1], M @ affine @ flip, bone_name="femur", knee="left"
    )
    for name in ("bone_shape", "thickness", "area"):
        np.testing.assert_allclose(kept[name], right[name], atol=1e-4)
    worst = max(
        float(np.nanmax(np.abs(flipped[name] - right[name])))
        for name in ("bone_shape", "thickness")
    )
    judge(
        "spherical map / a mirrored knee labelled as left",
        required="1e-4 mm if voxels are unchanged, 1e-3 mm if the array is flipped",
        measured=f"0 and {worst:.1e} mm",
        passed=worst < 1e-3,
    )
    assert kept.attrs["centre"] == pytest.approx(np.array(right.attrs["centre"]) * [-1, 1, 1])
    medial = right.azimuth > 0
    assert right.thickness.where(medial).mean() > right.thickness.where(~medial).mean() + 0.3


@pytest.mark.accept
def test_spherical_map__another_grid_of_the_same_knee(judge: Judge) -> None:
    maps = []
    for turn, shift in ((0.0, 0.0), (0.21, 0.3), (0.0, 0.19)):
        bone, cartilage, affine = femur_with_shaft(85, turn, shift)
        maps.append(spherical_map(bone, cartilage, affine, bone_name="femur", knee="right"))
    both = (
        (maps[0].surface_status == 1)
        & (maps[1].surface_status == 1)
        & (maps[2].surface_status == 1)
    )
    rms = [
        float(np.sqrt(((m[name] - maps[0][name]).where(both) ** 2).mean()))
        for m in maps[1:]
        for name in ("bone_shape", "thickness")
    ]
    judge(
        "spherical map / the same knee on a rotated and on a shifted grid",
        required="shape and thickness within 0.15 mm RMS, the noise of voxels",
        measured=", ".join(f"{value:.3f}" for value in rms),
        passed=max(rms) < 0.15,
    )


@pytest.mark.slow
def test_spherical_map__the_shaft_changes_nothing_above_the_crop(judge: Judge) -> None:
    made = [
        spherical_map(bone, cartilage, affine, bone_name="femur", knee="right")
        for bone, cartilage, affine in (femur_with_shaft(n) for n in (85, 56, 42))
    ]
    above = float(np.nanmax(np.abs(made[1].bone_shape - made[0].bone_shape)))
    judge(
        "spherical map / a femur's shaft cut above the crop",
        required="within 1e-3 mm",
        measured=f"{above:.1e} mm; {made[0].attrs['width']:.1f} mm wide, cut at 56 of 85 mm",
        passed=above < 1e-3,
    )
    assert [found.attrs["short_shaft"] for found in made] == [0, 0, 1]
    assert made[0].attrs["flag"] == ""


@pytest.mark.slow
def test_spherical_map__t2_that_is_known_on_the_surface(judge: Judge) -> None:
    affine, shape = grid(25)
    bone, cartilage = ball("femur", 20, 2.5, affine, shape)
    coarse, size = np.eye(4), (14, 120, 120)
    coarse[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) * (3.5, 0.42, 0.42)
    coarse[:3, 3] = -coarse[:3, :3] @ ((np.array(size) - 1) / 2)
    moved = np.eye(4)
    moved[:3, 3] = 1.5, -0.7, 0.4
    p = places(coarse, size) - moved[:3, 3]
    field = 40 + 0.4 * p[..., 0] + 0.3 * p[..., 1]
    r = np.linalg.norm(p, axis=-1)
    t2 = np.where((r > 19) & (r < 23.5) & (p[..., 2] < 0), field, np.nan)
    found = spherical_map(
        bone,
        cartilage,
        affine,
        bone_name="femur",
        knee="right",
        t2=t2,
        t2_affine=coarse,
        dess_to_msme=moved,
    )
    _, inside = truth(found, "femur", 20)
    rho = found.bone_shape.values[..., None] + 1.25
    middle = np.array(found.attrs["centre"]) + rho * directions("femur")
    error = (found.t2.values - 40 - 0.4 * middle[..., 0] - 0.3 * middle[..., 1])[inside > 4]
    rmse = np.sqrt(np.nanmean(error**2))
    judge(
        "spherical map / T2 known on the surface, slices of 3.5 mm, moved",
        required="within 1 ms RMSE, away from edges",
        measured=f"{rmse:.2f} ms; {np.isnan(error).mean():.1%} without a value",
        passed=rmse < 1 and np.isnan(error).mean() < 0.1,
    )
    nowhere = spherical_map(
        bone,
        cartilage,
        affine,
        bone_name="femur",
        knee="right",
        t2=np.full(size, np.nan),
        t2_affine=coarse,
    )
    assert nowhere.t2.isnull().all()


def test_spherical_map__a_bare_patch_is_denuded_and_not_outside() -> None:
    affine, shape = grid(25)
    bone, cartilage = ball("femur", 20, 2, affine, shape)
    p = places(affine, shape)
    cartilage &= ~((np.hypot(p[..., 0] - 6, p[..., 1]) < 3.5) & (p[..., 2] < 0))
    found = spherical_map(bone, cartilage, affine, bone_name="femur", knee="right")
    bare = found.surface_status == SURFACE_STATUS["denuded"]
    assert float(found.area.where(bare).sum()) == pytest.approx(np.pi * 3.5**2, rel=0.35)
    assert (found.thickness.where(bare, 0) == 0).all()
    assert (found.bone_shape.where(bare).notnull() == bare).all()
