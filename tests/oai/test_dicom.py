"""One series of DICOM files as arrays."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.dicom import read_dicom
from qmri_lake.oai.header import read_header

ECHOES = (10.0, 20.0, 30.0)


def same(a, b) -> bool:
    return all(np.array_equal(a[name].values, b[name].values) for name in a) and a.attrs == b.attrs


def test_read_dicom__pixels_affine_echoes(write_series, tmp_path):
    written = write_series(tmp_path / "s", echo_times=ECHOES)
    ds = read_dicom(written.folder)
    assert ds.image.dims == ("echo", "slice", "row", "column")
    assert ds.image.dtype == np.float32
    assert ds.affine.dtype == np.float64
    assert np.array_equal(ds.image, written.image)
    np.testing.assert_allclose(ds.affine, written.affine, atol=1e-6)
    assert ds.echo_time.values.tolist() == list(ECHOES)
    assert ds.echo_time.units == "ms"
    assert ds.series_uid == written.uid


def test_read_dicom__voxel_centre_is_its_position(write_series, tmp_path):
    written = write_series(tmp_path / "s")
    ds = read_dicom(written.folder)
    header = pydicom.dcmread(written.paths[4])
    np.testing.assert_allclose(
        ds.affine.values @ (4, 0, 0, 1), [*header.ImagePositionPatient, 1], atol=1e-5
    )


def test_read_dicom__order_of_files_has_no_effect(write_series, tmp_path):
    written = write_series(tmp_path / "s", echo_times=ECHOES)
    first = read_dicom(written.folder)
    names = list(range(len(written.paths)))
    random.Random(0).shuffle(names)
    (tmp_path / "t").mkdir()
    for path, name in zip(written.paths, names, strict=True):
        shutil.copy(path, tmp_path / "t" / f"x{name}.dcm")
    assert same(read_dicom(tmp_path / "t"), first)
    assert same(read_dicom(list(reversed(written.paths))), first)


def test_read_dicom__rescales_file_by_file(write_series, tmp_path):
    slopes = (0.5, 1.65128205128205, 2.0)
    written = write_series(tmp_path / "s", slope=slopes)
    assert np.array_equal(read_dicom(written.folder).image, written.image)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_read_dicom__transfer_syntax_has_no_effect(write_series, tmp_path, syntax):
    # Wide enough for a wavelet: JPEG 2000 has five levels.
    plain = write_series(tmp_path / "plain", shape=(64, 48), uid="1.2.3.4")
    other = write_series(tmp_path / "other", shape=(64, 48), syntax=syntax, uid="1.2.3.4")
    assert pydicom.dcmread(other.paths[0]).file_meta.TransferSyntaxUID == syntax
    assert same(read_dicom(other.folder), read_dicom(plain.folder))


def test_read_dicom__several_series_are_named(write_series, tmp_path):
    write_series(tmp_path / "s", uid="1.2.3.4")
    write_series(tmp_path / "s", uid="1.2.3.5", series="SAG_T2_MAP_RIGHT", start=100)
    with pytest.raises(InputError, match=r"2 series: .*SAG_T2_MAP_RIGHT.*expected one"):
        read_dicom(tmp_path / "s")


def test_read_dicom__no_image(tmp_path):
    with pytest.raises(InputError, match="no DICOM image"):
        read_dicom(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        read_dicom(tmp_path / "absent")


def drop(paths: list[Path], *indices: int) -> None:
    for index in indices:
        paths[index].unlink()


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def spoil(written, set_header, reason: Reason) -> None:
    """Introduce one fault into a series of three echoes and 6 slices."""
    paths = written.paths
    match reason:
        case Reason.MISSING_SLICE:
            drop(paths, 2, 8, 14)
        case Reason.MIXED_ECHO_COUNTS:
            drop(paths, 2)
        case Reason.DUPLICATE_POSITION:
            shutil.copy(paths[3], paths[3].with_name("copy"))
        case Reason.INCONSISTENT_GEOMETRY:
            set_header(paths[3], PixelSpacing=[0.5, 0.5])
        case Reason.TRUNCATED_FILE:
            truncate(paths[3], paths[3].stat().st_size - 40)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.MISSING_SLICE,
        Reason.MIXED_ECHO_COUNTS,
        Reason.DUPLICATE_POSITION,
        Reason.INCONSISTENT_GEOMETRY,
        Reason.TRUNCATED_FILE,
    ],
)
def test_read_dicom__bad_series_has_its_reason(write_series, set_header, tmp_path, reason):
    written = write_series(tmp_path / "s", echo_times=ECHOES)
    spoil(written, set_header, reason)
    with pytest.raises(InputError) as caught:
        read_dicom(written.folder)
    assert caught.value.reason is reason


def test_read_header__cut_anywhere(write_series, tmp_path):
    content = write_series(tmp_path / "s").paths[3].read_bytes()
    for size in range(132, len(content)):
        try:
            header = read_header(io.BytesIO(content[:size]), "003", size)
        except InputError as error:
            reason = error.reason
        else:
            reason = header and header.fault and header.fault.reason
        assert reason is Reason.TRUNCATED_FILE, size


@pytest.mark.parametrize(
    ("keep", "reason"), [(0.5, Reason.TRUNCATED_FILE), (1.0, Reason.UNDECODABLE_PIXELS)]
)
def test_read_dicom__compressed_pixels_cut_or_damaged(write_series, tmp_path, keep, reason):
    written = write_series(tmp_path / "s", shape=(64, 48), syntax=JPEG2000Lossless)
    path = written.paths[2]
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")  # start of the JPEG 2000 code stream
    if keep == 1.0:
        content[start : start + 60] = bytes(60)
    else:
        content = content[: start + int((len(content) - start) * keep)]
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_dicom(written.folder)
    assert caught.value.reason is reason


def test_read_dicom__geometry_of_dcm2niix(real_data, judge):
    import nibabel

    reference = nibabel.load(real_data / "dicom_geometry" / "sagittal_gre_reference.nii")
    ds = read_dicom(real_data / "dicom_geometry" / "sagittal_gre")
    # NIfTI: (column, row, slice), RAS, rows counted from the other end.
    voxels = ds.image.values[0].transpose(2, 1, 0)[:, ::-1]
    same = np.array_equal(voxels, np.asanyarray(reference.dataobj))
    flip = np.array([[0, 0, 1, 0], [0, -1, 0, 63], [1, 0, 0, 0], [0, 0, 0, 1]])
    affine = np.diag([-1, -1, 1, 1]) @ ds.affine.values @ flip
    off = np.abs(affine - reference.affine).max()
    judge(
        "geometry / dcm2niix on real slices",
        required="affine to float32 rounding (1e-5 mm), voxels equal",
        measured=f"{off:.1e} mm, voxels {'equal' if same else 'different'}",
        passed=same and off <= 1e-5,
    )


def test_read_dicom__real_big_endian_knee(real_data):
    ds = read_dicom(real_data / "knee_mese")
    assert ds.image.shape == (8, 24, 256, 256)
    spacing = np.linalg.norm(ds.affine.values[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, (4.0, 0.625, 0.625), atol=5e-4)
    np.testing.assert_allclose(ds.echo_time, 6.312 * np.arange(1, 9), atol=1e-9)
    paths = sorted((real_data / "knee_mese").iterdir())
    for path in paths[::37]:
        header = pydicom.dcmread(path)
        echo = int(np.argmin(abs(ds.echo_time.values - float(header.EchoTime))))
        index = np.linalg.solve(ds.affine.values, [*header.ImagePositionPatient, 1])
        assert np.array_equal(ds.image[echo, round(index[0])], header.pixel_array)


@pytest.mark.parametrize("name", ["ge_1.5T", "philips_1.5T", "siemens_1.5T_plate4"])
def test_read_dicom__real_single_slices(real_data, name):
    ds = read_dicom(real_data / "phantom_t2" / name)
    assert ds.image.sizes["slice"] == 1
    assert ds.image.sizes["echo"] == len(list((real_data / "phantom_t2" / name).iterdir()))
    assert np.all(np.diff(ds.echo_time) > 0)


@pytest.mark.parametrize("signed", [0, 1])
def test_read_dicom__bits_above_the_stored_ones_are_dropped(write_series, tmp_path, signed):
    written = write_series(tmp_path / "s")
    for path in written.paths:
        ds = pydicom.dcmread(path)
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, signed
        pixels = np.frombuffer(ds.PixelData, "<u2").copy()
        pixels[::5] |= 0xF000
        ds.PixelData = pixels.tobytes()
        ds.save_as(path)
    expected = np.stack([pydicom.dcmread(path).pixel_array for path in written.paths])
    assert np.array_equal(read_dicom(written.folder).image[0], expected)


@pytest.mark.parametrize(
    "name", ["RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"]
)
def test_read_dicom__samples_shipped_with_pydicom(name):
    plain = read_dicom(get_testdata_file("MR_small.dcm", download=False))
    other = read_dicom(get_testdata_file(f"MR_small_{name}.dcm", download=False))
    assert np.array_equal(other.image, plain.image)
    assert np.array_equal(other.affine, plain.affine)


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ("RescaleSlope", "2,5"),
        ("RescaleSlope", "2\\3"),
        ("RescaleSlope", "0"),
        ("RescaleSlope", "inf"),
        ("RescaleSlope", "1e300"),
        ("RescaleIntercept", "abc"),
    ],
)
def test_read_dicom__rescaling_that_is_no_number(write_series, tmp_path, element, value):
    written = write_series(tmp_path / "s")
    header = pydicom.dcmread(written.paths[2])
    header.add_new(element, "LO", value)
    header.save_as(written.paths[2])
    with pytest.raises(InputError, match=element) as error:
        read_dicom(written.folder)
    assert error.value.reason is Reason.UNREADABLE_VALUE


@pytest.mark.parametrize("lost", [slice(0, 1), slice(6, 12)])
def test_read_dicom__some_files_without_echo_time(write_series, set_header, tmp_path, lost):
    written = write_series(tmp_path / "s", echo_times=ECHOES)
    for path in written.paths[lost]:
        set_header(path, EchoTime=None)
    with pytest.raises(InputError, match="no EchoTime in") as error:
        read_dicom(written.folder)
    assert error.value.reason is Reason.INCONSISTENT_GEOMETRY


def test_read_dicom__link_to_nothing(write_series, tmp_path):
    written = write_series(tmp_path / "s")
    written.paths[-1].unlink()
    written.paths[-1].symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be opened"):
        read_dicom(written.folder)
