"""Meshes of bones: every vertex on the sphere from which the maps were made, with its values."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import trimesh

import qmri_lake as ql
from qmri_lake.exporting.export_result import ExportResult
from qmri_lake.surface.spherical_grid import SIZE
from tests.exporting.lakes import CENTRES, KEYS, RADIUS

BONES = ("patella", "tibia", "femur")


def export(lake: ql.Lake, form: str, folders: pytest.TempPathFactory) -> ExportResult:
    return ql.export(lake.cohort("kl == 1"), folders.mktemp(form), format=form)


def stored(lake: ql.Lake, bone: int, biomarker: int) -> np.ndarray:
    """Values of the pixels that have bone, row by row."""
    maps = lake.root["sphere/map"][0, bone]
    return maps[biomarker][np.isfinite(maps[0])]


def test_ply__trimesh_reads_points_triangles_and_maps(
    export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = export(export_lake, "ply", tmp_path_factory)
    assert (result.written, result.problems) == (1, ())
    for n, bone in enumerate(BONES):
        file = result.out / KEYS[0] / f"{KEYS[0]}_sphere_{bone}.ply"
        mesh = trimesh.load(file, process=False)
        assert len(mesh.vertices) == SIZE * 200
        distance = np.linalg.norm(mesh.vertices - CENTRES[n], axis=1)
        assert np.abs(distance - RADIUS).max() < 1e-4
        read = mesh.metadata["_ply_raw"]["vertex"]["data"]
        np.testing.assert_array_equal(
            np.asarray(read["thickness"], np.float32).ravel(), stored(export_lake, n, 1)
        )
        # Triangles that are seen from outside counter-clockwise enclose a positive cone.
        cone = np.einsum("ij,ij->i", mesh.triangles.mean(axis=1) - CENTRES[n], mesh.face_normals)
        assert (cone[mesh.area_faces > 1e-6] > 0).all()


def test_gifti__nibabel_reads_a_surface_in_ras_with_maps_and_states(
    export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = export(export_lake, "gifti", tmp_path_factory)
    for n, bone in enumerate(BONES):
        stem = result.out / KEYS[0] / f"{KEYS[0]}_sphere_{bone}"
        surface = nib.load(f"{stem}.surf.gii")
        points, triangles = surface.agg_data(("pointset", "triangle"))
        distance = np.linalg.norm(points - CENTRES[n] * [-1, -1, 1], axis=1)
        assert np.abs(distance - RADIUS).max() < 1e-4
        assert triangles.max() == len(points) - 1
        assert surface.meta["synthetic"] == "True"
        maps = {d.meta["Name"]: d.data for d in nib.load(f"{stem}.shape.gii").darrays}
        np.testing.assert_array_equal(maps["t2"], stored(export_lake, n, 2))
        labels = nib.load(f"{stem}_surface_status.label.gii")
        status = export_lake.root["sphere/surface_status"][0, n]
        there = np.isfinite(export_lake.root["sphere/map"][0, n, 0])
        np.testing.assert_array_equal(labels.darrays[0].data, status[there])
        names = labels.labeltable.get_labels_as_dict()
        assert names == {1: "covered", 2: "denuded", 3: "not_articular"}


def test_vtk__points_values_and_sidecar(
    export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # VTK is not a dependency of the tests: the text format is read by its own keywords.
    result = export(export_lake, "vtk", tmp_path_factory)
    file = result.out / KEYS[0] / f"{KEYS[0]}_sphere_femur.vtk"
    words = file.read_text().split()
    at = words.index("POINTS")
    count = int(words[at + 1])
    points = np.array(words[at + 3 : at + 3 + 3 * count], float).reshape(-1, 3)
    distance = np.linalg.norm(points - CENTRES[2], axis=1)
    assert np.abs(distance - RADIUS).max() < 1e-4
    at = words.index("thickness")
    values = np.array(words[at + 5 : at + 5 + count], np.float32)
    np.testing.assert_array_equal(values, stored(export_lake, 2, 1))
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["coordinates"] == "LPS, mm"
    assert about["units"]["t2"] == "ms"
    assert about["maps"]["sphere/map"]["lineage"]["step"] == "sphere"


def test_meshes__only_maps_of_bones_fit(
    export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(ql.errors.InputError, match="dess/bone is no spherical map"):
        ql.export(export_lake, tmp_path_factory.mktemp("x"), format="ply", variables="dess/bone")
    all_exams = ql.export(export_lake.cohort("kl != 1"), tmp_path_factory.mktemp("y"), format="ply")
    assert set(all_exams.left_out["exam"]) == {KEYS[2]}
