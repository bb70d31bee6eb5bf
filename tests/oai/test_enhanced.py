"""Enhanced multi-frame MR, against dcm2niix and against the values that the tests write."""

from __future__ import annotations

import io
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, RLELossless

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.dicom import read_dicom
from qmri_lake.oai.header import read_header
from qmri_lake.oai.inventory import inventory, read_series
from tests.oai.enhanced_files import (
    AFFINE,
    LEGACY_CONVERTED,
    ORIENTATION,
    Frame,
    item,
    volume,
    write_enhanced,
)

TIMES = (10.0, 20.0, 30.0)
PHASE = ("ORIGINAL", "PRIMARY", "P", "NONE")
IMAGE = volume(3, 5)


def frame(echo: int, index: int, **elements: object) -> Frame:
    content = {
        "StackID": "1",
        "InStackPositionNumber": index + 1,
        "TemporalPositionIndex": 1,
        "DimensionIndexValues": [1, index + 1, echo + 1],
    }
    known = {"echo_time": TIMES[echo], "content": content}
    return Frame(IMAGE[echo, index], index, **{**known, **elements})


def frames(echoes: int = 3, slices: int = 5, **elements: object) -> list[Frame]:
    return [frame(echo, index, **elements) for index in range(slices) for echo in range(echoes)]


def dimensions(*pairs: tuple[int, int]) -> list[pydicom.Dataset]:
    return [
        item(
            DimensionIndexPointer=Tag(pointer),
            FunctionalGroupPointer=Tag(group),
            DimensionOrganizationUID="1.2.3",
        )
        for pointer, group in pairs
    ]


STACK, POSITION = (0x00209056, 0x00209111), (0x00209057, 0x00209111)
BY_ECHO = dimensions(STACK, POSITION, (0x00189082, 0x00189114))
BY_COMPONENT = dimensions(STACK, POSITION, (0x00089208, 0x00189226))
PHILIPS = {"Manufacturer": "Philips Medical Systems"}


def nifti_of(ds) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels (column, row, slice, echo) and affine (RAS) as dcm2niix arranges them."""
    rows = ds.sizes["row"]
    flip = np.array([[0, 0, 1, 0], [0, -1, 0, rows - 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    affine = np.diag([-1, -1, 1, 1]) @ ds.affine.values @ flip
    return ds.image.values.transpose(3, 2, 1, 0)[:, ::-1], affine


def convert(folder: Path, out: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, voxels and affine of each volume that dcm2niix writes."""
    dcm2niix = pytest.importorskip("dcm2niix")
    out.mkdir()
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "%s_%e", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    for path in sorted(out.glob("*.nii")):
        image = nibabel.load(path)
        yield path.stem, image.get_fdata(dtype=np.float32), image.affine


def test_read_dicom__volumes_and_affine_of_dcm2niix_on_real_enhanced_files(real_data, judge):
    reference = nibabel.load(real_data / "enhanced_mr" / "reference.nii")
    voxels = np.asanyarray(reference.dataobj)
    off, same = 0.0, True
    for number in range(4):
        ds = read_dicom(real_data / "enhanced_mr" / f"6_{number + 1}.dcm")
        ours, affine = nifti_of(ds)
        off = max(off, np.abs(affine - reference.affine).max())
        same = same and np.array_equal(ours[..., 0], voxels[..., number])
        assert ds.echo_time.values.tolist() == [30.0]
    judge(
        "geometry / dcm2niix on real enhanced files",
        required="affine to rounding of the header (5e-5 mm), voxels equal",
        measured=f"{off:.1e} mm, voxels {'equal' if same else 'different'}",
        passed=same and off <= 5e-5,
    )
    with pytest.raises(InputError, match="4 volumes in one series: 4 temporal") as caught:
        read_dicom(real_data / "enhanced_mr")
    assert caught.value.reason is Reason.SEVERAL_VOLUMES


@pytest.mark.parametrize(
    ("written", "elements"),
    [
        (frames(1), {}),
        (frames(1)[::-1], {"Manufacturer": "GE MEDICAL SYSTEMS"}),
        (frames(), {**PHILIPS, "DimensionIndexSequence": BY_ECHO}),
        (
            [frame(e, s, rescaling=(0.5 + s + e, -10)) for e in range(3) for s in range(5)],
            {**PHILIPS, "DimensionIndexSequence": BY_ECHO},
        ),
        (frames(1, rescaling=(0.5, -10)), {}),
        (frames(1, real_world=[(0.5, 3)]), PHILIPS),
        (frames(1, rescaling=(1, 0), real_world=[(0.5, 3)]), PHILIPS),
        (frames(1, rescaling=(2, 5), real_world=[(0.5, 3)]), PHILIPS),
        (frames(1, real_world=[(1.7e308, 0)]), PHILIPS),
        (frames(1, real_world=[(0.5, 3)]), {}),
        (frames(1), {"sop_class": LEGACY_CONVERTED}),
        (
            [
                frame(
                    c,
                    s,
                    echo_time=10.0,
                    component=("MAGNITUDE", "PHASE")[c],
                    frame_type=("ORIGINAL", "PRIMARY", ("M_SE", "PHASE MAP")[c], "MP"[c]),
                )
                for s in range(5)
                for c in range(2)
            ],
            {**PHILIPS, "DimensionIndexSequence": BY_COMPONENT},
        ),
    ],
    ids=[
        "one echo",
        "descending",
        "echoes",
        "rescaling by frame",
        "rescaling",
        "real world",
        "real world after identity",
        "rescaling before real world",
        "no real world",
        "real world of others",
        "legacy converted",
        "magnitude and phase",
    ],
)
def test_read_dicom__voxels_and_affine_of_dcm2niix(tmp_path, written, elements):
    (tmp_path / "in").mkdir()
    write_enhanced(tmp_path / "in" / "a.dcm", written, **elements)
    ds = read_dicom(tmp_path / "in")
    ours, affine = nifti_of(ds)
    volumes = [v for v in convert(tmp_path / "in", tmp_path / "out") if not v[0].endswith("_ph")]
    assert len(volumes) == ds.sizes["echo"]
    for echo, (_, voxels, theirs) in enumerate(volumes):
        np.testing.assert_allclose(affine, theirs, atol=2e-5)  # mm, float32 of 70 mm
        np.testing.assert_allclose(ours[..., echo], voxels, rtol=1e-6)


@pytest.mark.parametrize("per_file", [15, 3, 1])
def test_read_dicom__order_and_number_of_files_have_no_effect(tmp_path, per_file):
    whole = [frame(e, s, rescaling=(0.5 + e, -10)) for s in range(5) for e in range(3)]
    random.Random(per_file).shuffle(whole)
    for k in range(0, len(whole), per_file):
        write_enhanced(tmp_path / f"{k}.dcm", whole[k : k + per_file])
    ds = read_dicom(tmp_path)
    slope = np.array([0.5, 1.5, 2.5])[:, None, None, None]
    assert np.array_equal(ds.image, (IMAGE * slope - 10).astype(np.float32))
    np.testing.assert_allclose(ds.affine, AFFINE, atol=1e-6)
    assert ds.echo_time.values.tolist() == list(TIMES)


def test_read_dicom__shared_groups_apply_to_every_frame(tmp_path):
    shared = ("PlaneOrientationSequence", "MREchoSequence", "MRImageFrameTypeSequence")
    write_enhanced(tmp_path / "a.dcm", frames(1), shared=shared)
    ds = read_dicom(tmp_path)
    assert np.array_equal(ds.image[0], IMAGE[0])
    np.testing.assert_allclose(ds.affine, AFFINE, atol=1e-6)
    assert ds.echo_time.values.tolist() == [10.0]


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_read_dicom__compressed_frames_are_those_of_the_plain_file(tmp_path, syntax):
    image = volume(1, 4, shape=(64, 48))
    written = [Frame(image[0, s], s) for s in (2, 0, 3, 1)]
    for name, chosen in (("plain", {}), ("compressed", {"syntax": syntax})):
        (tmp_path / name).mkdir()
        write_enhanced(tmp_path / name / "a.dcm", written, **chosen)
    plain, compressed = read_dicom(tmp_path / "plain"), read_dicom(tmp_path / "compressed")
    assert np.array_equal(plain.image[0], image[0])
    assert np.array_equal(compressed.image, plain.image)
    assert compressed.source_digest == plain.source_digest


@pytest.mark.parametrize(
    ("component", "frame_type", "kind"),
    [
        ("PHASE", PHASE, "phase frame"),
        ("MIXED", PHASE, "phase frame"),
        ("MAGNITUDE", PHASE, "phase frame"),  # the frame type of some scanners is more reliable
        ("REAL", ("ORIGINAL", "PRIMARY", "R", "NONE"), "real frame"),
        ("IMAGINARY", ("ORIGINAL", "PRIMARY", "I", "NONE"), "imaginary frame"),
        ("MAGNITUDE", ("DERIVED", "PRIMARY", "T2", "T2_MAP"), "computed map frame"),
    ],
)
def test_inventory__frames_that_are_not_magnitude_are_counted_and_not_read(
    tmp_path, component, frame_type, kind
):
    others = [
        frame(2, s, component=component, frame_type=frame_type, rescaling=(3, -4096))
        for s in range(5)
    ]
    write_enhanced(tmp_path / "a.dcm", [*others, *frames(1)])
    found = inventory(tmp_path)
    assert not found.problems
    assert found.ignored == {kind: 5}
    (series,) = found.series
    assert series.shape == (5, 8, 6)
    assert np.array_equal(read_series(series).image, IMAGE[0])


def test_read_header__phase_alone_says_so_in_its_image_type(tmp_path):
    odd = ("ORIGINAL", "PRIMARY", "OTHER", "NONE")
    path = write_enhanced(tmp_path / "a", frames(1, component="PHASE", frame_type=odd))
    with path.open("rb") as stream:
        header = read_header(stream, "a", path.stat().st_size)
    assert header is not None
    assert header.image_type == "ORIGINAL\\PRIMARY\\OTHER\\NONE\\PHASE"


TURNED = (*ORIENTATION[3:], *(-x for x in ORIENTATION[:3]))


@pytest.mark.parametrize(
    ("second", "match"),
    [
        ({"content": {"TemporalPositionIndex": 2, "StackID": "1"}}, "2 temporal positions"),
        ({"content": {"StackID": "2"}, "orientation": TURNED}, "2 stacks"),
        (
            {"groups": {"MRTimingAndRelatedParametersSequence": item(FlipAngle=20.0)}},
            "2 flip angles",
        ),
        ({"groups": {"MRDiffusionSequence": item(DiffusionBValue=500.0)}}, "2 b-values"),
        ({"frame_type": ("DERIVED", "PRIMARY", "DIXON", "FAT")}, "2 frame types"),
    ],
)
def test_read_dicom__several_volumes_are_named(tmp_path, second, match):
    pair = [*frames(1), *(frame(0, s, **second) for s in range(5))]
    write_enhanced(tmp_path / "a.dcm", pair)
    with pytest.raises(InputError, match=f"2 volumes in one series: {match}") as caught:
        read_dicom(tmp_path)
    assert caught.value.reason is Reason.SEVERAL_VOLUMES


def test_read_dicom__stacks_of_one_grid_are_one_volume(tmp_path):
    parts = [frame(0, s, content={"StackID": str(s // 3)}) for s in range(5)]
    write_enhanced(tmp_path / "a.dcm", parts)
    assert np.array_equal(read_dicom(tmp_path).image[0], IMAGE[0])


def test_read_dicom__a_lost_frame_is_a_missing_slice(tmp_path):
    write_enhanced(tmp_path / "a.dcm", [frame(0, s) for s in (0, 1, 3, 4)])
    with pytest.raises(InputError, match="a gap of 7") as caught:
        read_dicom(tmp_path)
    assert caught.value.reason is Reason.MISSING_SLICE


@pytest.mark.parametrize(
    ("written", "elements", "reason", "match"),
    [
        (frames(1), {"NumberOfFrames": 4}, Reason.UNREADABLE_VALUE, "groups of 5 frames"),
        (frames(1), {"NumberOfFrames": 6}, Reason.UNREADABLE_VALUE, "groups of 5 frames"),
        (frames(1, echo_time=0.01), {}, Reason.IMPLAUSIBLE_VALUE, "frame 1: .* seconds"),
        (
            frames(1),
            {"PhotometricInterpretation": "MONOCHROME1"},
            Reason.INVERTED_GREYSCALE,
            "MONOCHROME1",
        ),
        (
            frames(1, real_world=[(0.5, 3), (2, 0)]),
            PHILIPS,
            Reason.MODALITY_LUT,
            "several functions",
        ),
        (
            [frame(0, s, rescaling=(1, 0) if s else None) for s in range(5)],
            {},
            Reason.MIXED_PIXELS,
            "1 image with no RescaleSlope, first .*frame 1",
        ),
        (
            [frame(0, s, echo_time=None if s == 2 else 10.0) for s in range(5)],
            {},
            Reason.INCONSISTENT_GEOMETRY,
            "no EchoTime in 1 of 5",
        ),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_inventory__enhanced_file_that_contradicts_itself(
    tmp_path, written, elements, reason, match
):
    path = write_enhanced(tmp_path / "a.dcm", written, **elements)
    if "NumberOfFrames" in elements:  # the pixels agree, and only the groups do not
        ds = pydicom.dcmread(path)
        ds.PixelData = (ds.PixelData + bytes(96))[: 96 * ds.NumberOfFrames]
        ds.save_as(path)
    (problem,) = inventory(tmp_path).problems
    assert problem.reason is reason
    with pytest.raises(InputError) as caught:
        read_dicom(tmp_path)
    assert caught.value.reason is reason
    assert re.search(match, str(problem))


def test_read_dicom__frames_in_a_classic_file_are_refused(write_series, set_header, tmp_path):
    path = write_series(tmp_path / "s", slices=1).paths[0]
    ds = pydicom.dcmread(path)
    set_header(path, NumberOfFrames=2, PixelData=ds.PixelData * 2)
    with pytest.raises(InputError, match=r"2 frames in one file .*or enhanced MR"):
        read_dicom(path)


def test_read_header__enhanced_file_cut_anywhere(tmp_path):
    content = write_enhanced(tmp_path / "a", frames(1, 2)).read_bytes()
    for size in range(132, len(content), 7):
        try:
            header = read_header(io.BytesIO(content[:size]), "a", size)
        except InputError as error:
            reason = error.reason
        else:
            reason = header and header.fault and header.fault.reason
        assert reason is Reason.TRUNCATED_FILE, size
