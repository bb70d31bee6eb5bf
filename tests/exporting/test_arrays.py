"""NetCDF and MATLAB files, opened by xarray and SciPy (and Octave, where it is installed)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import xarray as xr

import qmri_lake as ql
from qmri_lake.exporting import mat_files
from qmri_lake.exporting.export_result import ExportResult
from tests.exporting.lakes import ECHOES, KEYS


@pytest.fixture(scope="module")
def netcdf(export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    names = ["dess", "msme", "clinical/bmi", "region", "sphere/map"]
    cohort = export_lake.cohort("kl != 1")
    return ql.export(cohort, tmp_path_factory.mktemp("nc"), format="netcdf", variables=names)


@pytest.fixture(scope="module")
def mat(export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    names = ["dess", "msme", "region/thickness"]
    cohort = export_lake.cohort("kl == 1")
    return ql.export(cohort, tmp_path_factory.mktemp("mat"), format="mat", variables=names)


def test_netcdf__plain_xarray_reads_values_coordinates_units_and_flags(
    export_lake: ql.Lake, netcdf: ExportResult
) -> None:
    assert netcdf.problems == ()
    exam, root = KEYS[1], export_lake.root
    with xr.open_dataset(netcdf.out / exam / f"{exam}_msme.nc", engine="h5netcdf") as ds:
        np.testing.assert_array_equal(ds["image"], root["msme/image"][1, :, :4, :11, :8])
        assert ds["image"].dims == ("echo", "slice", "row", "column")
        np.testing.assert_array_equal(ds["echo"], ECHOES)
        assert ds["echo"].attrs["units"] == "ms"
        assert (ds["t2"].attrs["units"], ds["t2"].dtype) == ("ms", np.float32)
        assert json.loads(ds["t2"].attrs["lineage"])["run"] == 3
        np.testing.assert_array_equal(ds["affine"], root["msme/affine"][1])
        np.testing.assert_array_equal(ds["t2__epg"], root["msme/t2__epg"][1, :4, :11, :8])
        assert ds["t2_status"].dtype == np.uint8
        assert ds.attrs["exam"] == exam
        assert ds.attrs["synthetic"] == "yes"
        assert "series_uid" not in ds
    with xr.open_dataset(netcdf.out / exam / f"{exam}_dess.nc", engine="h5netcdf") as ds:
        labels = ds["cartilage"]
        assert labels.dtype == np.uint8  # not float, as a fill value would make it
        meanings = labels.attrs["flag_meanings"].split()
        assert dict(zip(meanings, labels.attrs["flag_values"].tolist(), strict=True)) == dict(
            ql.tissues.CARTILAGE
        )
    with xr.open_dataset(netcdf.out / exam / f"{exam}_region.nc", engine="h5netcdf") as ds:
        assert ds["thickness"].sel(region="cMF").item() == pytest.approx(
            root["region/thickness"][1, [str(r) for r in root["region/region"][...]].index("cMF")]
        )
    with xr.open_dataset(netcdf.out / exam / f"{exam}_sphere.nc", engine="h5netcdf") as ds:
        np.testing.assert_array_equal(
            ds["map"].sel(bone="tibia", biomarker="t2"), root["sphere/map"][1, 1, 2]
        )
    with xr.open_dataset(netcdf.out / exam / f"{exam}_clinical.nc", engine="h5netcdf") as ds:
        assert np.isnan(ds["bmi"])


def test_netcdf__leaves_out_labels_and_maps_that_were_not_computed(
    netcdf: ExportResult,
) -> None:
    with xr.open_dataset(netcdf.out / KEYS[2] / f"{KEYS[2]}_dess.nc", engine="h5netcdf") as ds:
        assert set(ds.data_vars) == {"image", "extent"}
    assert not (netcdf.out / KEYS[2] / f"{KEYS[2]}_region.nc").exists()
    assert set(netcdf.left_out["exam"]) == {KEYS[2]}


def test_mat__scipy_reads_a_structure_of_arrays_and_their_attributes(
    export_lake: ql.Lake, mat: ExportResult
) -> None:
    assert mat.problems == ()
    exam, root = KEYS[0], export_lake.root
    found = scipy.io.loadmat(
        mat.out / exam / f"{exam}_msme.mat", simplify_cells=True, chars_as_strings=True
    )
    np.testing.assert_array_equal(found["msme"]["image"], root["msme/image"][0])
    np.testing.assert_array_equal(found["msme"]["t2__epg"], root["msme/t2__epg"][0])
    assert found["msme"]["t2"].dtype == np.float32
    assert (found["exam"], found["knee"], bool(found["synthetic"])) == (exam, "right", True)
    about = found["attributes"]
    assert about["t2"]["units"] == "ms"
    assert about["image"]["dimensions"].tolist() == ["echo", "slice", "row", "column"]
    np.testing.assert_array_equal(about["image"]["echo_times_ms"], ECHOES)
    np.testing.assert_array_equal(about["t2"]["affine_lps_mm"], root["msme/affine"][0])
    labels = scipy.io.loadmat(mat.out / exam / f"{exam}_dess.mat", simplify_cells=True)
    names = labels["attributes"]["cartilage"]["label_names"].tolist()
    assert names == list(ql.tissues.CARTILAGE)
    region = scipy.io.loadmat(mat.out / exam / f"{exam}_region.mat", simplify_cells=True)
    assert region["attributes"]["thickness"]["region"][0] == str(root["region/region"][0])


def test_mat__a_group_that_is_too_large_is_a_problem(
    export_lake: ql.Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A lake of 2 GiB would take minutes; the limit is lowered instead.
    monkeypatch.setattr(mat_files, "MAX_BYTES", 2000)
    result = ql.export(export_lake, tmp_path, format="mat", variables="msme/image")
    assert len(result.problems) == 3
    assert result.problems[0].reason == "not_exportable"
    assert "export netcdf" in result.problems[0].todo


def test_mat__octave_reads_it(export_lake: ql.Lake, mat: ExportResult) -> None:
    octave = shutil.which("octave-cli") or shutil.which("octave")
    file = mat.out / KEYS[0] / f"{KEYS[0]}_msme.mat"
    expected = float(export_lake.root["msme/image"][0].astype(float).sum())
    if octave is None:  # the same file, read by SciPy's implementation of the format
        found = scipy.io.loadmat(file, simplify_cells=True)["msme"]["image"].astype(float).sum()
    else:
        code = f"d = load('{file}'); printf('%.17g', sum(double(d.msme.image(:))))"
        done = subprocess.run([octave, "--eval", code], capture_output=True, text=True, check=True)
        found = float(done.stdout)
    assert found == pytest.approx(expected, rel=1e-12)
