"""OME-Zarr, opened by zarr-python: equal voxels, the metadata of version 0.5, labels, pyramids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

import qmri_lake as ql
from tests.exporting.lakes import KEYS, build_lake, oblique


def test_ome_zarr__image_with_labels_and_voxel_sizes(export_lake: ql.Lake, tmp_path: Path) -> None:
    names = ["dess/image", "dess/bone", "dess/cartilage", "msme/image", "msme/t2"]
    result = ql.export(export_lake, tmp_path, format="ome-zarr", variables=names)
    assert result.problems == ()
    exam, root = KEYS[0], export_lake.root
    dess = zarr.open_group(tmp_path / exam / f"{exam}_dess.ome.zarr", mode="r")
    np.testing.assert_array_equal(dess["0"][...], root["dess/image"][0])
    (scales,) = dess.attrs["ome"]["multiscales"]
    assert dess.attrs["ome"]["version"] == "0.5"
    assert [axis["name"] for axis in scales["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in scales["axes"]} == {"millimeter"}
    assert dess["0"].metadata.dimension_names == ("z", "y", "x")
    (scale,) = scales["datasets"][0]["coordinateTransformations"]
    np.testing.assert_allclose(scale["scale"], (0.7, 0.4, 0.45))
    assert dess["labels"].attrs["ome"]["labels"] == ["bone", "cartilage"]
    labels = dess["labels/cartilage"]
    np.testing.assert_array_equal(labels["0"][...], root["dess/cartilage"][0])
    about = labels.attrs["ome"]["image-label"]
    colours = {c["label-value"]: c["rgba"][3] for c in about["colors"]}
    assert set(colours) == {p["label-value"] for p in about["properties"]}
    assert (colours[0], colours[4]) == (0, 255)
    assert about["source"] == {"image": "../../"}
    assert {p["label-value"]: p["name"] for p in about["properties"]}[4] == "meniscus"
    np.testing.assert_array_equal(
        dess.attrs["qmri_lake"]["affine_lps_slice_row_column_mm"], root["dess/affine"][0]
    )
    assert dess.attrs["qmri_lake"]["synthetic"] is True
    msme = zarr.open_group(tmp_path / exam / f"{exam}_msme.ome.zarr", mode="r")
    assert msme["0"].shape == (3, 5, 12, 10)
    assert msme.attrs["ome"]["multiscales"][0]["axes"][0] == {"name": "c", "type": "channel"}
    t2 = zarr.open_group(tmp_path / exam / f"{exam}_msme_t2.ome.zarr", mode="r")
    np.testing.assert_array_equal(t2["0"][...], root["msme/t2"][0])
    again = ql.export(export_lake, tmp_path, format="ome-zarr", variables=names)
    assert again.unchanged == 3


def test_ome_zarr__pyramids_average_values_and_pick_labels(tmp_path: Path) -> None:
    shape = (3, 260, 256)
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape).astype(np.float32)
    image[0, 0, 0] = np.nan
    bone = rng.integers(0, 4, shape).astype(np.uint8)
    arrays = {
        "dess/image": image,
        "dess/bone": bone,
        "dess/affine": oblique((0.7, 0.4, 0.5), (0, 0, 0)),
        "dess/extent": np.array(shape),
    }
    lake = build_lake(
        tmp_path / "oai.lake",
        [(9000001, 0, "left")],
        [arrays],
        {1: {"step": "import", "parameters": {}, "version": "1"}},
        {"dess": shape},
        {"ingest_dess": 1, "segment_bones": 1},
    )
    ql.export(lake, tmp_path / "out", format="ome-zarr")
    folder = tmp_path / "out" / "9000001-000m-left" / "9000001-000m-left_dess.ome.zarr"
    group = zarr.open_group(folder, mode="r")
    assert sorted(k for k in group if k != "labels") == ["0", "1", "2"]
    blocks = image.reshape(3, 130, 2, 128, 2).transpose(0, 1, 3, 2, 4).reshape(3, 130, 128, 4)
    np.testing.assert_allclose(group["1"][...], np.nanmean(blocks, axis=-1), atol=1e-6)
    np.testing.assert_array_equal(group["labels/bone/1"][...], bone[:, ::2, ::2])
    steps = group.attrs["ome"]["multiscales"][0]["datasets"]
    scale, shift = steps[2]["coordinateTransformations"]
    # A voxel of level 2 averages rows 0 to 3, whose centre is at row 1.5.
    np.testing.assert_allclose(scale["scale"], (0.7, 1.6, 2.0))
    np.testing.assert_allclose(shift["translation"], (0, 1.5 * 0.4, 1.5 * 0.5))
