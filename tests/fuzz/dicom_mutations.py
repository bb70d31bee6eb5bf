"""Damage of small DICOM series that a header, a count or a checksum can tell.

Pixels that are damaged under valid headers, and values that are plausible in every slice alike,
can't be recognised, so no mutation makes them.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from tests.fuzz.fuzzing import Described, Draw
from tests.oai.conftest import write

Files = dict[str, bytes]
FOLDER = "00m/0.C.2/9000001/20040824/1"
ECHO_TIMES = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)
PIXELS = b"\xe0\x7f\x10\x00OW"
ELEMENTS = """SOPClassUID SOPInstanceUID ImageType StudyDate SeriesTime StudyDescription
SeriesDescription PatientID ClinicalTrialTimePointID EchoTime SpacingBetweenSlices SliceThickness
SeriesInstanceUID SeriesNumber ImagePositionPatient ImageOrientationPatient SamplesPerPixel Rows
Columns PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation PhotometricInterpretation
InstanceNumber EchoNumbers ImagesInAcquisition""".split()
GEOMETRY = """ImagePositionPatient ImageOrientationPatient PixelSpacing EchoTime Rows Columns
BitsStored BitsAllocated PixelRepresentation SamplesPerPixel""".split()
NOT_NUMBERS = """nan inf -inf 1e400 1,5 abc --1 1_0 0x10 1e True""".split()
IMPOSSIBLE = ["-1", "0", "1e30", "-1e308", "99999999999", "1e-300"]
TEXTS = [
    b"",
    b"\0\0",
    b"A" * 64,
    b"../../../etc/passwd",
    b"\xff\xfe\xfd\xfc",
    b"%s%n{}",
    b"\x1b[31m",
]
SYNTAXES = """1.2.840.10008.1.2 1.2.840.10008.1.2.2 1.2.840.10008.1.2.1.99 1.2.840.10008.1.2.4.50
1.2.840.10008.1.2.4.70 1.2.840.10008.1.2.4.90 1.2.840.10008.1.2.5 1.2.3.4""".split()
NAMES = [
    "a\n{}",
    "\u202e{}",
    "-{}",
    ".{}",
    "{}.dcm",
    "{}.txt",
    "{}.gz",
    "{}.zip",
    "{}.csv",
    "a b {}",
]
STRAYS = [
    b"hello",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b'{"error": "not found"}',
    b"\0" * 2000,
    b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
    b"PK\x03\x04" + bytes(range(200)),
    b"\x1f\x8b\x08" + bytes(range(200)),
    b"\0" * 128 + b"DICM",
    b"\0" * 128 + b"DICM" + bytes(range(256)) * 4,
    b"",
]


@functools.cache
def series(group: str) -> Files:
    """Return the files of an undamaged series, the same ones in each run."""
    echoes = {"dess": (4.71,), "msme": ECHO_TIMES}[group]
    name = {"dess": "SAG_3D_DESS_RIGHT", "msme": "SAG_T2_MAP_RIGHT"}[group]
    slices = {"dess": 8, "msme": 3}[group]
    files = {}
    with TemporaryDirectory() as folder:
        written = write(
            Path(folder),
            series=name,
            echo_times=echoes,
            slices=slices,
            uid=f"1.2.826.0.1.{len(echoes)}",
            start=1,
        )
        for number, path in enumerate(written.paths, start=1):
            ds = pydicom.dcmread(path)
            ds.SOPInstanceUID = f"1.2.826.0.1.{len(echoes)}.{number}"
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.InstanceNumber, ds.ImagesInAcquisition = number, len(written.paths)
            ds.SpacingBetweenSlices = ds.SliceThickness = 0.7
            ds.EchoNumbers = int(ds.EchoNumbers) + 1
            ds.save_as(path)
            files[path.name] = path.read_bytes()
    return files


@dataclass(frozen=True)
class DamagedSeries(Described):
    """A series of DICOM files with one kind of damage."""

    kind: str
    group: str
    note: str
    files: Files = field(repr=False)


@st.composite
def damaged_series(draw: Draw) -> DamagedSeries:
    group = draw(st.sampled_from(("dess", "msme")))
    kind = draw(st.sampled_from(sorted(MUTATIONS)))
    files = dict(series(group))
    note = MUTATIONS[kind](draw, files)
    return DamagedSeries(kind, group, note, files)


Mutation = Callable[[Draw, Files], str]
MUTATIONS: dict[str, Mutation] = {}


def _mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__.replace("_", " ")] = function
    return function


@_mutation
def header_bits(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        content = bytearray(files[name])
        for at in draw(_offsets(132, _start_of_pixels(files[name]) + 12)):
            content[at] ^= 1 << draw(st.integers(0, 7))
        files[name] = bytes(content)
    return f"in {names}"


@_mutation
def header_bits_of_all(draw: Draw, files: Files) -> str:
    """Bits of the elements that say how the file is encoded; others could become plausible."""
    end = 132 + 200
    flips = [(at, 1 << draw(st.integers(0, 7))) for at in draw(_offsets(132, end))]
    for name in files:
        content = bytearray(files[name])
        for at, bit in flips:
            content[at] ^= bit
        files[name] = bytes(content)
    return str(flips)


@_mutation
def truncated(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        files[name] = files[name][: draw(st.integers(0, len(files[name]) - 1))]
    return f"{names} to {[len(files[name]) for name in names]} bytes"


@_mutation
def inserted(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        at = draw(st.integers(128, _start_of_pixels(files[name])))
        files[name] = files[name][:at] + draw(st.binary(min_size=1, max_size=32)) + files[name][at:]
    return f"in {names}"


@_mutation
def zeroed_headers(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        at = draw(st.integers(128, _start_of_pixels(files[name]) + 11))
        end = min(at + draw(st.integers(1, 512)), _start_of_pixels(files[name]) + 12)
        files[name] = files[name][:at] + b"\0" * (end - at) + files[name][end:]
    return f"in {names}"


@_mutation
def text_mode(draw: Draw, files: Files) -> str:
    """Line ends converted, as by a transfer in text mode."""
    names = _some(draw, files)
    for name in names:
        files[name] = files[name].replace(b"\n", b"\r\n") + b"\r\n"
    return f"in {names}"


@_mutation
def trailing_bytes(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        files[name] += draw(st.binary(min_size=1, max_size=600))
    return f"in {names}"


@_mutation
def not_dicom(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        files[name] = draw(st.sampled_from(STRAYS))
    return f"in {names}"


@_mutation
def absent_element(draw: Draw, files: Files) -> str:
    keyword, names = draw(st.sampled_from(ELEMENTS)), _some(draw, files)
    for name in names:
        ds = pydicom.dcmread(io.BytesIO(files[name]))
        delattr(ds, keyword)
        stream = io.BytesIO()
        ds.save_as(stream, enforce_file_format=False)
        files[name] = stream.getvalue()
    return f"{keyword} in {names}"


@_mutation
def empty_element(draw: Draw, files: Files) -> str:
    keyword, names = draw(st.sampled_from(ELEMENTS)), _some(draw, files)
    for name in names:
        files[name] = _set(files[name], keyword, b"")
    return f"{keyword} in {names}"


@_mutation
def element_twice(draw: Draw, files: Files) -> str:
    keyword, names = draw(st.sampled_from(ELEMENTS)), _some(draw, files)
    first = draw(st.booleans())
    for name in names:
        start, end = _place(files[name], keyword)
        element = files[name][start:end]
        other = element[:8] + b"1" * (len(element) - 8)
        both = other + element if first else element + other
        files[name] = files[name][:start] + both + files[name][end:]
    return f"{keyword} in {names}"


@_mutation
def not_a_number(draw: Draw, files: Files) -> str:
    keyword = draw(st.sampled_from([k for k in GEOMETRY if _is_text(k)]))
    names, value = _some(draw, files), draw(st.sampled_from(NOT_NUMBERS + IMPOSSIBLE[2:]))
    part = draw(st.integers(0, 5))
    for name in names:
        parts = _parts(files[name], keyword)
        parts[part % len(parts)] = value
        files[name] = _set(files[name], keyword, "\\".join(parts).encode())
    return f"{keyword} = {value} in {names}"


@_mutation
def impossible_number(draw: Draw, files: Files) -> str:
    keyword = draw(st.sampled_from(["PixelSpacing", "EchoTime"]))
    names, value = _some(draw, files), draw(st.sampled_from(IMPOSSIBLE))
    for name in names:
        parts = [value for _ in _parts(files[name], keyword)]
        files[name] = _set(files[name], keyword, "\\".join(parts).encode())
    return f"{keyword} = {value} in {names}"


@_mutation
def number_of_values(draw: Draw, files: Files) -> str:
    keyword = draw(st.sampled_from([k for k in GEOMETRY if _is_text(k)]))
    names, more = _some(draw, files), draw(st.booleans())
    for name in names:
        parts = _parts(files[name], keyword)
        parts = [*parts, "1"] if more else parts[:-1]
        files[name] = _set(files[name], keyword, "\\".join(parts).encode())
    return f"{keyword} in {names}"


@_mutation
def binary_number(draw: Draw, files: Files) -> str:
    """Another size or storage of pixels; one file of the size of all is not enough for more."""
    keyword = draw(st.sampled_from([k for k in GEOMETRY if not _is_text(k)]))
    numbers = [0, 2, 3, 5, 9, 17, 255, 0x8000, 0xFFFF]
    names, value = _some(draw, files), draw(st.sampled_from(numbers))
    for name in names:
        files[name] = _set(files[name], keyword, struct.pack("<H", value))
    return f"{keyword} = {value} in {names}"


@_mutation
def text_of_one_file(draw: Draw, files: Files) -> str:
    keywords = [k for k in ELEMENTS if _is_text(k) and k not in GEOMETRY]
    keyword, name = draw(st.sampled_from(keywords)), draw(st.sampled_from(sorted(files)))
    value = draw(st.sampled_from(TEXTS))
    files[name] = _set(files[name], keyword, value)
    return f"{keyword} = {value[:20]!r} in {name}"


@_mutation
def other_representation(draw: Draw, files: Files) -> str:
    keyword, names = draw(st.sampled_from(ELEMENTS)), _some(draw, files)
    other = draw(st.sampled_from([b"OB", b"SQ", b"UN", b"DS", b"US", b"FD", b"ZZ", b"\0\0", b"UI"]))
    for name in names:
        start, _ = _place(files[name], keyword)
        files[name] = files[name][: start + 4] + other + files[name][start + 6 :]
    return f"{keyword} as {other!r} in {names}"


@_mutation
def other_length(draw: Draw, files: Files) -> str:
    keyword, names = draw(st.sampled_from(ELEMENTS)), _some(draw, files)
    change = draw(st.sampled_from([-4, -2, -1, 1, 2, 4, 8, 100, 60000]))
    for name in names:
        start, end = _place(files[name], keyword)
        length = struct.pack("<H", (end - start - 8 + change) % 65536)
        files[name] = files[name][: start + 6] + length + files[name][start + 8 :]
    return f"{keyword} by {change} in {names}"


@_mutation
def nested_sequences(draw: Draw, files: Files) -> str:
    depth, name = draw(st.sampled_from([1, 5, 50, 2000])), draw(st.sampled_from(sorted(files)))
    inner = (
        b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    ) * depth
    start, _ = _place(files[name], "PatientID")
    files[name] = files[name][:start] + inner + files[name][start:]
    return f"{depth} in {name}"


@_mutation
def length_of_pixels(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    length = draw(st.sampled_from([0, 1, 2, 50, 95, 97, 1000, 0x7FFFFFFF, 0xFFFFFFFF]))
    for name in names:
        at = _start_of_pixels(files[name]) + 8
        files[name] = files[name][:at] + struct.pack("<I", length) + files[name][at + 4 :]
    return f"{length} in {names}"


@_mutation
def transfer_syntax(draw: Draw, files: Files) -> str:
    names, syntax = _some(draw, files), draw(st.sampled_from(SYNTAXES))
    for name in names:
        start, end = _place(files[name], "TransferSyntaxUID")
        value = syntax.encode()[: end - start - 8].ljust(end - start - 8, b"\0")
        files[name] = files[name][: start + 8] + value + files[name][end:]
    return f"{syntax} in {names}"


@_mutation
def lost_files(draw: Draw, files: Files) -> str:
    most = len(files) - 1
    names = draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=most, unique=True))
    for name in names:
        del files[name]
    return str(names)


@_mutation
def copied_files(draw: Draw, files: Files) -> str:
    names = _some(draw, files)
    for name in names:
        files[f"copy of {name}"] = files[name]
    return str(names)


@_mutation
def exchanged_positions(draw: Draw, files: Files) -> str:
    return _exchange(draw, files, "ImagePositionPatient")


@_mutation
def exchanged_echo_times(draw: Draw, files: Files) -> str:
    return _exchange(draw, files, "EchoTime")


@_mutation
def slice_of_another_series(draw: Draw, files: Files) -> str:
    other = series("msme" if len(files) == 8 else "dess")
    name, same_uid = draw(st.sampled_from(sorted(other))), draw(st.booleans())
    content = other[name]
    if same_uid:
        first = next(iter(files.values()))
        start, end = _place(first, "SeriesInstanceUID")
        content = _set(content, "SeriesInstanceUID", first[start + 8 : end])
    place = draw(st.sampled_from(["099", *sorted(files)]))
    files[place] = content
    return f"{name} as {place}, the UID {'replaced' if same_uid else 'kept'}"


@_mutation
def joined_halves(draw: Draw, files: Files) -> str:
    """The first part of one file, and the rest of another one, as from a damaged disk."""
    first, second = _two(draw, files)
    # Behind the number, headers of one position are the same.
    at = draw(st.integers(132, _place(files[first], "InstanceNumber")[0]))
    files[first] = files[first][:at] + files[second][at:]
    return f"{second} in {first} from {at}"


@_mutation
def sheared(draw: Draw, files: Files) -> str:
    size = draw(st.sampled_from([5e-3, 0.02, 0.1, 0.5]))
    for name in files:
        turn = np.array(_parts(files[name], "ImageOrientationPatient"), float)
        turn[3:] += size * turn[:3]
        text = "\\".join(f"{x:.6f}" for x in turn)
        files[name] = _set(files[name], "ImageOrientationPatient", text.encode())
    return f"by {size}"


@_mutation
def other_unit(draw: Draw, files: Files) -> str:
    keyword = draw(st.sampled_from(["PixelSpacing", "EchoTime"]))
    factor = draw(st.sampled_from([-1.0, 1e-3, 1e3, 1e6, 1e-6]))
    for name in files:
        values = [float(part) * factor for part in _parts(files[name], keyword)]
        files[name] = _set(files[name], keyword, "\\".join(f"{v:.8g}" for v in values).encode())
    return f"{keyword} by {factor}"


@_mutation
def names_of_files(draw: Draw, files: Files) -> str:
    pattern = draw(st.sampled_from(NAMES))
    for number, (name, content) in enumerate(sorted(files.items())):
        del files[name]
        files[pattern.format(number)] = content
    return repr(pattern)


def _exchange(draw: Draw, files: Files, keyword: str) -> str:
    first, second = _two(draw, files)
    values = ["\\".join(_parts(files[name], keyword)).encode() for name in (first, second)]
    files[first], files[second] = (
        _set(files[first], keyword, values[1]),
        _set(files[second], keyword, values[0]),
    )
    return f"{first}, {second}"


def _some(draw: Draw, files: Files) -> list[str]:
    """Return the names of one, a few or all files."""
    names = sorted(files)
    chosen = draw(st.sampled_from(("one", "few", "all")))
    if chosen == "all":
        return names
    size = 1 if chosen == "one" else 3
    return draw(st.lists(st.sampled_from(names), min_size=size, max_size=size, unique=True))


def _two(draw: Draw, files: Files) -> list[str]:
    names = st.sampled_from(sorted(files))
    return draw(st.lists(names, min_size=2, max_size=2, unique=True))


def _offsets(start: int, end: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(start, end - 1), min_size=1, max_size=6, unique=True)


def _start_of_pixels(content: bytes) -> int:
    return content.rfind(PIXELS)


def _is_text(keyword: str) -> bool:
    return pydicom.datadict.dictionary_VR(keyword) != "US"


def _place(content: bytes, keyword: str) -> tuple[int, int]:
    """Return start and end of an element with a length of two bytes."""
    number = tag_for_keyword(keyword)
    assert number is not None
    tag = Tag(number)
    start = content.index(struct.pack("<HH", tag.group, tag.element), 132)
    (length,) = struct.unpack("<H", content[start + 6 : start + 8])
    return start, start + 8 + length


def _set(content: bytes, keyword: str, value: bytes) -> bytes:
    start, end = _place(content, keyword)
    value += b" " * (len(value) % 2)
    return content[: start + 6] + struct.pack("<H", len(value)) + value + content[end:]


def _parts(content: bytes, keyword: str) -> list[str]:
    start, end = _place(content, keyword)
    return content[start + 8 : end].decode().strip(" \0").split("\\")
