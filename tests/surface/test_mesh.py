"""Meshes: their own measures, and as a reference for the maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import qmri_lake as ql
from qmri_lake.errors import InputError
from qmri_lake.surface import directions, spherical_map
from qmri_lake.surface.mesh import Mesh, mask_mesh, outermost_hits, ray_thickness
from qmri_lake.surface.mesh_export import map_mesh, write_mesh
from tests.conftest import Judge
from tests.surface.solids import ball, grid

FOLDER = "knee_segmentation"


def read_vtk(path: Path) -> Mesh:
    """Read the corners, triangles and values of a legacy text file."""
    words = path.read_text().split()
    at = words.index("POINTS")
    n = int(words[at + 1])
    points = np.array(words[at + 3 : at + 3 + 3 * n], float).reshape(n, 3)
    at = words.index("POLYGONS")
    m = int(words[at + 1])
    triangles = np.array(words[at + 3 : at + 3 + 4 * m], int).reshape(m, 4)[:, 1:]
    values = {}
    for at, word in enumerate(words):
        if word == "SCALARS":
            values[words[at + 1]] = np.array(words[at + 6 : at + 6 + n], float)
        elif word == "thickness%20(mm)":
            values["thickness"] = np.array(words[at + 4 : at + 4 + n], float)
    return Mesh(points, triangles, values)


def corner_areas(mesh: Mesh) -> NDArray[np.float64]:
    """Return a third of the triangles around each corner, mm2."""
    a, b, c = (mesh.points[mesh.triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return np.bincount(mesh.triangles.ravel(), np.repeat(area, 3) / 3, len(mesh.points))


def test_ray_thickness__on_another_programs_meshes(real_data: Path, judge: Judge) -> None:
    reference = read_vtk(real_data / FOLDER / "femur_thickness_reference.vtk")
    bone = read_vtk(real_data / FOLDER / "femur_bone.vtk")
    np.testing.assert_allclose(bone.points, reference.points, atol=1e-6)
    found = ray_thickness(bone, read_vtk(real_data / FOLDER / "femur_cartilage.vtk"))
    true, area = reference.values["thickness"], corner_areas(bone)
    both = (found > 0) & (true > 0)
    error = float(np.abs(found - true)[both].mean())
    dice = 2 * area[both].sum() / (area[found > 0].sum() + area[true > 0].sum())
    judge(
        "real knee / thickness by rays on another program's meshes of the femur",
        required="mean absolute difference <= 0.10 mm, Dice of the covered area >= 0.97",
        measured=f"{error:.3f} mm, {dice:.4f}; {both.sum()} points",
        passed=error <= 0.10 and dice >= 0.97 and both.sum() > 2500,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bone", "label", "cartilage"), [("femur", 5, (1,)), ("tibia", 6, (2, 3)), ("patella", 7, (4,))]
)
def test_spherical_map__shape_against_rays_from_outside(
    real_data: Path, judge: Judge, bone: str, label: int, cartilage: tuple[int, ...]
) -> None:
    mask = ql.read_mask(real_data / FOLDER / "right_knee_labels.nrrd")
    labels = np.asarray(mask.labels)
    found = spherical_map(
        labels == label, np.isin(labels, cartilage), mask.affine, bone_name=bone, knee="right"
    )
    pixel = np.random.default_rng(0).choice(224 * 224, 2000, replace=False)
    rays = directions(bone).reshape(-1, 3)[pixel]
    true = outermost_hits(mask_mesh(labels == label, mask.affine), found.centre, rays)
    error = np.abs(found.bone_shape.values.ravel()[pixel] - true)
    median, p99 = np.nanmedian(error), np.nanpercentile(error, 99)
    judge(
        f"real knee / shape of the {bone} against rays from outside to a marching-cubes mesh",
        required="of 2,000 random pixels: median < 0.1, 99th percentile < 0.5 mm",
        measured=f"median {median:.3f}, 99th percentile {p99:.3f} mm; "
        f"{int(np.isnan(error).sum())} without a surface",
        passed=median < 0.1 and p99 < 0.5 and np.isnan(error).mean() < 0.01,
    )


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_ray_thickness__a_shell(mirror: float) -> None:
    affine, shape = grid(25, shift=0.11)
    bone, cartilage = ball("femur", 20, 2, affine, shape)
    affine = np.diag([mirror, 1, 1, 1]) @ affine
    outside = mask_mesh(bone, affine)
    found = ray_thickness(outside, mask_mesh(cartilage, affine))
    inner = outside.points[:, 2] < -0.3 * 20 - 4
    assert found[inner].mean() == pytest.approx(2, abs=0.03)
    assert np.sqrt(((found[inner] - 2) ** 2).mean()) < 0.12
    assert (found[outside.points[:, 2] > -4] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("knee", ["right", "left"])
@pytest.mark.parametrize("suffix", [".vtk", ".ply"])
def test_write_mesh__a_map_round_trip(tmp_path: Path, knee: str, suffix: str) -> None:
    affine, shape = grid(15)
    bone, cartilage = ball("femur", 10, 2, affine, shape)
    affine[:3, 3] += 30.0
    mesh = map_mesh(spherical_map(bone, cartilage, affine, bone_name="femur", knee=knee))
    path = tmp_path / f"map{suffix}"
    write_mesh(mesh, path)
    if suffix == ".vtk":
        again = read_vtk(path)
    else:
        import trimesh

        loaded = trimesh.load(path, process=False)
        again = Mesh(loaded.vertices, loaded.faces, loaded.metadata["_ply_raw"]["vertex"]["data"])
    np.testing.assert_allclose(again.points, mesh.points, atol=1e-4)
    np.testing.assert_array_equal(again.triangles, mesh.triangles)
    np.testing.assert_allclose(again.values["thickness"], mesh.values["thickness"], atol=1e-5)
    # On the ball, where the scanner saw it, whichever side it was called; and outside is out.
    np.testing.assert_allclose(np.linalg.norm(mesh.points - 30, axis=1), 10, atol=0.3)
    a, b, c = (mesh.points[mesh.triangles[:, k]] for k in range(3))
    assert (((np.cross(b - a, c - a) * (a - 30)).sum(axis=1)) > -1e-3).all()


def test_write_mesh__another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.vtk or \.ply"):
        write_mesh(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), tmp_path / "a.stl")
