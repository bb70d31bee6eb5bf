"""The viewer of one exam: complete, self-contained, exact maps, no personal data."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import NotFoundError
from qmri_lake.phantom import Archive
from qmri_lake.report.colours import MAP_STYLES
from qmri_lake.report.exam_viewer import _MESH_STRIDE, write_view
from qmri_lake.report.map_atlases import BONE_ORDER, one_bone
from qmri_lake.surface import directions, map_mesh
from tests.report.test_lake_report import _Checker


@pytest.fixture
def archive(drawn_archive: Archive) -> Archive:
    return drawn_archive


@pytest.fixture
def lake(drawn_lake: ql.Lake) -> ql.Lake:
    return drawn_lake


def exam_of(lake: ql.Lake, knee: str) -> str:
    return str(lake.cohort(f"knee == '{knee}'").require("sphere/map").exams["exam"].iloc[0])


def page_of(lake: ql.Lake, exam: str, folder: Path) -> tuple[str, dict[str, Any]]:
    text = write_view(lake, exam, folder / "deep" / "v.html").read_text(encoding="utf-8")
    return text, json.loads(re.findall(r'id="data">(.*?)</script>', text, re.S)[0])


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def opened(source: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


@pytest.mark.parametrize("knee", ["right", "left"])
def test_write_view__maps_are_exact_and_on_the_bone(
    lake: ql.Lake, tmp_path: Path, knee: str
) -> None:
    exam = exam_of(lake, knee)
    _, data = page_of(lake, exam, tmp_path)
    sphere = lake.load("sphere", exam=exam).isel(exam=0).compute()
    assert set(data["bones"]) == set(BONE_ORDER)
    for bone, made in data["bones"].items():
        maps = one_bone(sphere, bone)
        for name in MAP_STYLES:
            whole = unpacked(made["maps"][name], "<u2").reshape(224, 224)
            values = np.where(whole == 65535, np.nan, whole / 100)
            np.testing.assert_allclose(values, maps[name].values, atol=0.00501)
        status = unpacked(made["status"], "u1").reshape(224, 224)
        np.testing.assert_array_equal(status, maps["surface_status"].values)
        places = unpacked(made["places"], "<f4").reshape(-1, 3)
        seen = np.isfinite(places).all(axis=1)
        rho = maps["bone_shape"].values[::_MESH_STRIDE, ::_MESH_STRIDE].ravel()
        np.testing.assert_array_equal(seen, np.isfinite(rho))
        number = np.cumsum(np.isfinite(maps["bone_shape"].values).ravel()) - 1
        corner = number.reshape(224, 224)[::_MESH_STRIDE, ::_MESH_STRIDE].ravel()[seen]
        np.testing.assert_allclose(places[seen], map_mesh(maps).points[corner], atol=1e-4)
    assert directions("femur").shape == (224, 224, 3)


def test_write_view__slices_have_masks_and_t2(lake: ql.Lake, tmp_path: Path) -> None:
    exam = exam_of(lake, "right")
    _, data = page_of(lake, exam, tmp_path)
    dess = lake.load("dess", exam=exam).isel(exam=0).compute()
    assert len(data["dess"]["images"]) == dess.sizes["slice"]
    middle = dess.sizes["slice"] // 3
    labels = opened(data["dess"]["layer"][middle])
    bone, cartilage = dess.bone.values[middle], dess.cartilage.values[middle]
    np.testing.assert_array_equal(labels, np.where(cartilage > 0, cartilage + 3, bone))
    assert [name for name, _ in data["tissues"]] == [
        "femur",
        "tibia",
        "patella",
        "femoral cartilage",
        "tibial cartilage",
        "patellar cartilage",
        "meniscus",
    ]
    image = dess.image.values
    expected = np.clip(image[middle] / np.percentile(image, 99.5), 0, 1) * 255
    assert np.abs(opened(data["dess"]["images"][middle]) - expected).mean() < 6
    msme = lake.load("msme", exam=exam).isel(exam=0).compute()
    known = np.isfinite(msme.t2.values)
    assert [bool(layer) for layer in data["msme"]["layer"]] == known.any(axis=(1, 2)).tolist()
    fullest = int(known.sum(axis=(1, 2)).argmax())
    index = opened(data["msme"]["layer"][fullest])
    np.testing.assert_array_equal(index > 0, known[fullest])
    shown = 20 + (index.astype(float) - 1) / 254 * 50
    np.testing.assert_allclose(
        shown[known[fullest]], np.clip(msme.t2.values[fullest][known[fullest]], 20, 70), atol=0.1
    )
    # A place on the bone is found again in the slices.
    place = np.append(unpacked(data["bones"]["femur"]["places"], "<f4")[:3], 1)
    voxel = np.array(data["dess"]["to_voxel"]) @ place
    np.testing.assert_allclose(dess.affine.values @ voxel, place, atol=1e-3)


def test_write_view__is_complete_and_self_contained(
    lake: ql.Lake, archive: Archive, tmp_path: Path
) -> None:
    exam = exam_of(lake, "left")
    text, _ = page_of(lake, exam, tmp_path)
    checker = _Checker()
    checker.feed(re.sub(r"<(input|link|br)\b[^>]*>", "", text))
    assert checker.open == []
    assert exam in text
    bare = re.sub(r"base64,[^\"]+", "", text)
    assert not re.search(r"https?:|src=\"(?!data:)|@import|NaN[,\]]", bare)
    for uid in lake.load("dess").series_uid.values:
        assert uid not in bare
    assert str(Path(lake.url).parent) not in bare
    assert "phantom^" not in bare


def test_write_view__script_is_valid_javascript(lake: ql.Lake, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to read JavaScript")
    text, _ = page_of(lake, exam_of(lake, "right"), tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    (tmp_path / "view.js").write_text(script, encoding="utf-8")
    done = subprocess.run([node, "--check", str(tmp_path / "view.js")], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_write_view__omits_missing_data(archive: Archive, tmp_path: Path) -> None:
    lake = ql.ingest(archive.path, tmp_path / "bare.lake").lake
    exam = str(lake.cohort().require("dess/image").exams["exam"].iloc[0])
    text, data = page_of(lake, exam, tmp_path)
    assert data["bones"] is None
    assert data["dess"]["layer"] is None
    assert "<h2>Maps</h2>" not in text
    empty = ql.create_lake(str(tmp_path / "empty.lake"))
    with pytest.raises(NotFoundError):
        write_view(empty, exam, tmp_path / "v.html")


def test_command_line__view_and_atlas(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exam = exam_of(lake, "right")
    assert main(["view", exam, "--lake", lake.url, "--out", str(tmp_path / "v.html")]) == 0
    assert main(["atlas", exam, "--lake", lake.url, "--out", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "v.html").stat().st_size > 100_000
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000
    assert main(["view", "9000000-000m-left", "--lake", lake.url]) == 2
    assert "no exam" in capsys.readouterr().err
    assert main(["atlas", exam, "--lake", lake.url, "--out", str(tmp_path / "a.xyz")]) == 2
    message = capsys.readouterr().err
    assert "suffix '.xyz' (expected one of" in message
    assert "fault of qmri_lake" not in message


def test_write_report__shows_maps(lake: ql.Lake, tmp_path: Path) -> None:
    text = ql.report.write_report(lake, tmp_path / "r.html", exams=0).read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    alts = [alt for alt, _ in checker.images]
    assert sum(alt.startswith("Maps of ") for alt in alts) == len(
        lake.cohort().require("sphere/map")
    )
    assert any(alt.startswith("Mean maps of ") for alt in alts)
    section = text.partition("<h2>Spherical maps</h2>")[2].partition("<h2>")[0]
    for exam in lake.failures("sphere")["exam"]:
        assert exam in section
