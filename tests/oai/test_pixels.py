"""Headers that contradict their pixels, each other, or what a scanner can do."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.dicom import read_dicom
from qmri_lake.oai.header import read_header
from qmri_lake.oai.inventory import inventory

ECHOES = (10.0, 20.0, 30.0)


def refused(folder: Path, reason: Reason, match: str | None = None) -> None:
    with pytest.raises(InputError, match=match) as caught:
        read_dicom(folder)
    assert caught.value.reason is reason
    assert "\n" not in str(caught.value)


def edit(paths: list[Path], change: Callable[[bytes], bytes]) -> None:
    for path in paths:
        path.write_bytes(change(path.read_bytes()))


def set_text(path: Path, keyword: str, text: str) -> None:
    """Replace an element by text that its own representation may not allow."""
    ds = pydicom.dcmread(path)
    ds.add_new(keyword, "LO", text)
    ds.save_as(path)


def body(path: Path, start: str) -> bytes:
    """Return a file without its transfer syntax: with the meta group, the preamble, or neither."""
    ds = pydicom.dcmread(path)
    syntax, meta = ds.file_meta.TransferSyntaxUID, ds.file_meta
    stream = DicomBytesIO()
    stream.is_little_endian, stream.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    for _ in ds:
        pass
    write_dataset(stream, ds)
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    if start == "meta":
        del meta.TransferSyntaxUID
        write_file_meta_info(head, meta, enforce_standard=False)
    preamble = b"" if start == "none" else bytes(128) + b"DICM"
    return preamble + head.getvalue() + stream.getvalue()


@pytest.mark.parametrize("start", ["meta", "preamble", "none"])
@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian],
    ids=lambda syntax: syntax.name,
)
def test_read_dicom__byte_order_that_is_not_declared_is_found(
    write_series, tmp_path, syntax, start
):
    written = write_series(tmp_path / "s", slices=2, syntax=syntax)
    for path in written.paths:
        path.write_bytes(body(path, start))
    assert np.array_equal(read_dicom(written.folder).image, written.image)


@pytest.mark.parametrize(
    ("syntax", "declared", "match"),
    [
        (ExplicitVRBigEndian, ExplicitVRLittleEndian, "a big-endian header"),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian, "a little-endian header"),
        (ExplicitVRLittleEndian, JPEG2000Lossless, r"uncompressed pixels \(JPEG 2000"),
        (RLELossless, ExplicitVRLittleEndian, r"compressed pixels \(Explicit VR Little"),
        (ExplicitVRLittleEndian, "1.2.3.4.5", "transfer syntax 1.2.3.4.5"),
    ],
)
def test_read_header__declared_encoding_is_not_that_of_the_file(
    write_series, tmp_path, syntax, declared, match
):
    path = write_series(tmp_path / "s", slices=1, syntax=syntax).paths[0]
    content = path.read_bytes()
    meta = pydicom.filereader.read_file_meta_info(path)
    end = 128 + 4 + 12 + meta.FileMetaInformationGroupLength
    meta.TransferSyntaxUID = declared
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, meta)
    path.write_bytes(content[:132] + head.getvalue() + content[end:])
    refused(path.parent, Reason.TRANSFER_SYNTAX, match)


def longer(content: bytes, extra: bytes, *, declared: bool) -> bytes:
    """Add bytes after the pixels, and declare them as pixels or not."""
    at = content.index(b"\xe0\x7f\x10\x00OW") + 8
    (length,) = struct.unpack("<L", content[at : at + 4])
    grown = struct.pack("<L", length + len(extra) * declared)
    return content[:at] + grown + content[at + 4 : at + 4 + length] + extra


@pytest.mark.parametrize("declared", [True, False])
def test_read_dicom__more_bytes_than_pixels(write_series, tmp_path, declared):
    written = write_series(tmp_path / "s")
    edit(written.paths[2:3], lambda b: longer(b, b"\x01\x02" * 40, declared=declared))
    refused(written.folder, Reason.TRAILING_BYTES, "80 bytes too many")


def test_read_dicom__zeros_and_elements_after_the_pixels_are_no_fault(write_series, tmp_path):
    written = write_series(tmp_path / "s")
    edit(written.paths[:1], lambda b: longer(b, bytes(700), declared=False))
    trailing = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<L", 4) + b"\1\2\3\4"
    edit(written.paths[1:2], lambda b: longer(b, trailing, declared=False))
    assert np.array_equal(read_dicom(written.folder).image[0], written.image[0])


@pytest.mark.parametrize("name", ["Rows", "Columns"])
def test_read_dicom__fewer_rows_than_the_pixels(write_series, set_header, tmp_path, name):
    written = write_series(tmp_path / "s", shape=(8, 6))
    for path in written.paths:
        ds = pydicom.dcmread(path)
        pixels = ds.pixel_array.copy()
        pixels[-1], pixels[:, -1] = 0, 0  # zeros are no padding if they can be a row
        ds.PixelData = pixels.tobytes()
        setattr(ds, name, ds[name].value - 1)
        ds.save_as(path)
    refused(written.folder, Reason.TRAILING_BYTES)


def test_read_dicom__transfer_in_text_mode_is_named(write_series, tmp_path):
    written = write_series(tmp_path / "s", shape=(64, 48))
    start = written.paths[0].read_bytes().index(b"\xe0\x7f\x10\x00OW") + 12
    edit(written.paths, lambda b: b[:start].replace(b"\n", b"\x0b") + b[start:])
    before = written.paths[0].read_bytes()
    edit(written.paths, lambda b: b.replace(b"\n", b"\r\n"))
    assert written.paths[0].read_bytes() != before
    refused(written.folder, Reason.TRAILING_BYTES, "Transfer the file again in binary mode")


def test_read_dicom__deflated_pixels_too_long(write_series, tmp_path):
    written = write_series(tmp_path / "s", syntax=DeflatedExplicitVRLittleEndian)

    def lengthen(content: bytes) -> bytes:
        # The file meta information is not deflated; its length differs with that of the UIDs.
        start = 144 + int.from_bytes(content[140:144], "little")
        data = zlib.decompress(content[start:], -zlib.MAX_WBITS)
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = longer(data, b"\1\2" * 30, declared=True)
        return content[:start] + packer.compress(data) + packer.flush()

    edit(written.paths, lengthen)
    refused(written.folder, Reason.TRAILING_BYTES, "60 bytes too many")


@pytest.mark.parametrize(
    ("elements", "reason", "match"),
    [
        ({"BitsStored": 17}, Reason.CONTRADICTORY_BITS, "BitsStored = 17"),
        ({"BitsStored": 0, "HighBit": 0}, Reason.CONTRADICTORY_BITS, "BitsStored = 0"),
        ({"BitsStored": 12}, Reason.CONTRADICTORY_BITS, "HighBit = 15"),
        ({"BitsAllocated": 12}, Reason.CONTRADICTORY_BITS, "BitsAllocated = 12"),
        ({"PixelRepresentation": 2}, Reason.CONTRADICTORY_BITS, "PixelRepresentation = 2"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, Reason.TRAILING_BYTES, "48 bytes"),
        ({"BitsStored": None}, Reason.UNREADABLE_VALUE, "no BitsStored"),
        ({"PixelRepresentation": None}, Reason.UNREADABLE_VALUE, "no PixelRepresentation"),
        ({"SamplesPerPixel": None}, Reason.UNREADABLE_VALUE, "no SamplesPerPixel"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, Reason.INVERTED_GREYSCALE, "MONOCHROME2"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR_PIXELS, "PALETTE COLOR"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, Reason.COLOUR_PIXELS, "RGB"),
        ({"RescaleSlope": "-1"}, Reason.IMPLAUSIBLE_VALUE, "RescaleSlope = -1"),
        ({"RescaleIntercept": "99999999999"}, Reason.IMPLAUSIBLE_VALUE, "RescaleIntercept"),
        ({"RescaleSlope": "1e-300"}, Reason.UNREADABLE_VALUE, "RescaleSlope"),
        ({"NumberOfFrames": 0}, Reason.UNREADABLE_VALUE, "NumberOfFrames is 0"),
        ({"SeriesInstanceUID": "1.2x"}, Reason.UNREADABLE_VALUE, "SeriesInstanceUID"),
    ],
    ids=lambda value: None if isinstance(value, Reason) else str(value)[:40],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_read_dicom__header_that_contradicts_its_pixels(
    write_series, set_header, tmp_path, elements, reason, match
):
    written = write_series(tmp_path / "s", slices=1)
    for keyword, value in elements.items():
        if value is None:
            ds = pydicom.dcmread(written.paths[0])
            delattr(ds, keyword)
            ds.save_as(written.paths[0])
        else:
            set_header(written.paths[0], **{keyword: value})
    refused(written.folder, reason, match)


def test_read_dicom__lookup_table(write_series, set_header, tmp_path):
    written = write_series(tmp_path / "s", slices=1)
    set_header(written.paths[0], ModalityLUTSequence=[])
    assert np.array_equal(read_dicom(written.folder).image, written.image)
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, 16])
    table.add_new("LUTData", "US", [0, 10, 20, 30])
    set_header(written.paths[0], ModalityLUTSequence=[table])
    refused(written.folder, Reason.MODALITY_LUT)


@pytest.mark.parametrize(
    ("one", "match"),
    [
        ({"BitsStored": 12, "HighBit": 11}, "12 of 16 bits"),
        ({"PixelRepresentation": 1}, "signed pixels"),
        ({"RescaleSlope": "2"}, "a RescaleSlope"),
        ({"RescaleIntercept": "-1"}, "RescaleIntercept = -1"),
        ({"RescaleType": "HU"}, "RescaleType = HU"),
    ],
)
def test_read_dicom__slices_stored_in_different_ways(
    write_series, set_header, tmp_path, one, match
):
    written = write_series(tmp_path / "s")
    set_header(written.paths[4], **one)
    refused(written.folder, Reason.MIXED_PIXELS, f"1 image with {match}, first .*005")


@pytest.mark.parametrize("signed", [False, True])
def test_read_dicom__padding_is_not_signal(write_series, set_header, tmp_path, signed):
    written = write_series(tmp_path / "s", slices=1)
    ds = pydicom.dcmread(written.paths[0])
    pixels = ds.pixel_array.copy()
    pixels[0, :3] = 63536  # -2000 if signed
    ds.PixelData, ds.PixelRepresentation = pixels.tobytes(), int(signed)
    ds.add_new("PixelPaddingValue", "SS" if signed else "US", -2000 if signed else 63536)
    ds.save_as(written.paths[0])
    value = "-2000" if signed else "63536"
    refused(written.folder, Reason.PADDED_PIXELS, f"3 pixels with the PixelPaddingValue {value}")
    ds.PixelData = np.zeros_like(pixels).tobytes()
    ds.save_as(written.paths[0])
    assert not read_dicom(written.folder).image.any()  # no pixel is padding


def test_read_dicom__padding_range_and_background(write_series, set_header, tmp_path):
    written = write_series(tmp_path / "s", slices=1)
    ds = pydicom.dcmread(written.paths[0])
    pixels = np.maximum(ds.pixel_array, 10)
    pixels[0] = 0
    ds.PixelData = pixels.tobytes()
    ds.add_new("PixelPaddingValue", "US", 0)
    ds.save_as(written.paths[0])
    assert not read_dicom(written.folder).image[0, 0, 0].any()  # signal 0 outside the image
    ds.add_new("PixelPaddingRangeLimit", "US", int(pixels[1:].min()))
    ds.save_as(written.paths[0])
    refused(written.folder, Reason.PADDED_PIXELS, "PixelPaddingValue 0 to")


@pytest.mark.parametrize(
    ("element", "value", "match"),
    [
        ("EchoTime", "0.01", "EchoTime = 0.01: seconds?"),
        ("EchoTime", "4710", "EchoTime = 4710: microseconds?"),
        ("EchoTime", "0", "EchoTime = 0 "),
        ("PixelSpacing", ["0.0005", "0.0005"], "PixelSpacing = 0.0005: metres?"),
        ("PixelSpacing", ["0.04", "0.04"], "PixelSpacing = 0.04: centimetres?"),
        ("PixelSpacing", ["365", "365"], "PixelSpacing = 365: micrometres?"),
        ("PixelSpacing", ["0.5", "-0.5"], "PixelSpacing = -0.5 "),
        ("PixelSpacing", ["0.5", "2"], "PixelSpacing = 0.5 and 2 mm"),
        ("SliceThickness", "3500", "SliceThickness = 3500: micrometres?"),
        ("SliceThickness", "0.0035", "SliceThickness = 0.0035: metres?"),
        ("SpacingBetweenSlices", "700", "SpacingBetweenSlices = 700: micrometres?"),
        ("ImagePositionPatient", ["-40500", "0", "0"], "-40500: micrometres?"),
    ],
)
def test_read_dicom__values_no_scanner_has(
    write_series, set_header, tmp_path, element, value, match
):
    written = write_series(tmp_path / "s", slices=1)
    set_header(written.paths[0], **{element: value})
    refused(written.folder, Reason.IMPLAUSIBLE_VALUE, match.replace("?", r"\?"))


@pytest.mark.parametrize(("spacing", "match"), [(0.0625, "centimetres"), (11.0, "704 mm")])
def test_read_dicom__field_of_view_no_scanner_has(
    write_series, set_header, tmp_path, spacing, match
):
    written = write_series(tmp_path / "s", slices=1, shape=(64, 64))
    set_header(written.paths[0], PixelSpacing=[spacing, spacing])
    refused(written.folder, Reason.IMPLAUSIBLE_VALUE, match)


@pytest.mark.parametrize("factor", [1e-3, 0.1, 20.0])
def test_read_dicom__positions_in_another_unit(write_series, set_header, tmp_path, factor):
    written = write_series(tmp_path / "s")
    for path in written.paths:
        at = pydicom.dcmread(path).ImagePositionPatient
        set_header(path, ImagePositionPatient=[round(float(x) * factor, 9) for x in at])
        set_header(path, SliceThickness=0.7)
    refused(written.folder, Reason.IMPLAUSIBLE_VALUE)


@pytest.mark.parametrize(
    ("element", "text", "match"),
    [
        ("EchoTime", "10,0", "EchoTime = '10,0' .expected one number with a decimal point"),
        ("EchoTime", "10\\20", "expected one number"),
        ("EchoTime", "1_0", "expected one number"),
        ("EchoTime", "nan", "expected one number"),
        ("PixelSpacing", "0,5\\0,4", "2 numbers with a decimal point"),
        ("ImagePositionPatient", "1,5\\0\\0", "3 numbers with a decimal point"),
        ("ImageOrientationPatient", "0\\1\\0\\0\\0\\x", "ImageOrientationPatient"),
        ("SliceThickness", "3,5", "SliceThickness"),
        ("SpacingBetweenSlices", "abc", "SpacingBetweenSlices"),
    ],
)
def test_read_dicom__numbers_that_are_none(write_series, tmp_path, element, text, match):
    written = write_series(tmp_path / "s", echo_times=ECHOES)
    for path in written.paths:
        set_text(path, element, text)
    refused(written.folder, Reason.UNREADABLE_VALUE, match)


@pytest.mark.parametrize("text", [" 4.71 ", "+4.71", "4.7100000000000000001", "471e-2", "4.71\0"])
def test_read_dicom__numbers_in_other_forms(write_series, tmp_path, text):
    written = write_series(tmp_path / "s", slices=2)
    for path in written.paths:
        set_text(path, "EchoTime", text)
    assert read_dicom(written.folder).echo_time.values.tolist() == [4.71]


def test_read_header__element_that_occurs_twice(write_series, tmp_path):
    path = write_series(tmp_path / "s", slices=1).paths[0]
    content = path.read_bytes()
    at = content.index(b"\x18\x00\x81\x00DS")
    end = at + 8 + struct.unpack("<H", content[at + 6 : at + 8])[0]
    content = content[:end] + content[at : at + 8] + b"9.99" + content[end:]
    header = read_header(io.BytesIO(content), "001", len(content))
    assert header is not None
    assert header.fault is not None
    assert header.fault.reason is Reason.UNREADABLE_VALUE
    assert "the element once" in str(header.fault)


def test_read_dicom__numbers_contradict_positions_and_echoes(write_series, set_header, tmp_path):
    written = write_series(tmp_path / "s", echo_times=ECHOES)
    for k, path in enumerate(written.paths):
        set_header(path, SliceLocation=-3.0 * (k % 6))
    assert np.array_equal(read_dicom(written.folder).image, written.image)
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for path in written.paths:
        (swapped / path.name).write_bytes(path.read_bytes())
    for echo in range(3):
        a, b = written.paths[6 * echo + 1], written.paths[6 * echo + 4]
        at = [pydicom.dcmread(path).ImagePositionPatient for path in (b, a)]
        for path, position in zip((a, b), at, strict=True):
            set_header(swapped / path.name, ImagePositionPatient=position)
    refused(swapped, Reason.INCONSISTENT_GEOMETRY, "SliceLocation contradicts")
    for k, te in ((0, 20.0), (6, 10.0)):  # one slice of two echoes
        set_header(written.paths[k], EchoTime=te)
    refused(written.folder, Reason.INCONSISTENT_GEOMETRY, "EchoNumbers contradicts EchoTime")


def test_read_dicom__slices_shifted_sideways(write_series, set_header, tmp_path):
    written = write_series(tmp_path / "s")
    for k, path in enumerate(written.paths):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        set_header(path, ImagePositionPatient=[x, y, float(z) + 0.05 * k])
    refused(written.folder, Reason.INCONSISTENT_GEOMETRY, "sideways by 0.05 mm")


def test_inventory__fault_is_listed_with_its_exam_and_other_series_are_kept(
    write_series, set_header, tmp_path
):
    good = write_series(tmp_path / "good")
    bad = write_series(
        tmp_path / "bad", series="SAG_T2_MAP_RIGHT", echo_times=ECHOES, number=4, uid="1.2.9"
    )
    set_header(bad.paths[3], PhotometricInterpretation="MONOCHROME1")
    found = inventory(tmp_path)
    assert [series.uid for series in found.series] == [good.uid]
    (problem,) = found.problems
    assert problem.reason is Reason.INVERTED_GREYSCALE
    assert problem.exam == "9000001-000m-right"
