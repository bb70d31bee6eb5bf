"""Damaged mask files are refused, or read as they were."""

from __future__ import annotations

import functools
import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
from hypothesis import strategies as st

from qmri_lake.masks.files import Mask, read_mask
from qmri_lake.masks.grids import ExamGrid
from tests.conftest import Judge
from tests.fuzz.fuzzing import Described, Draw, Outcome, few_or_many, judge_tally, read_damaged
from tests.masks.test_damage import WRITERS
from tests.masks.writers import SHAPE, affine_of, label_map, write_crop

GRID = ExamGrid(SHAPE, affine_of("right"), "right")
LABELS = label_map()
KINDS = ("cut", "bits", "zeroed", "filled", "inserted", "removed", "appended", "header", "renamed")
TEXT_VALUES = ["", "0", "-1", "nan", "1e30", "none", "3", "999999999", "(1,0,0)", "\u202e"]
NIFTI_FIELDS = {
    "sizeof_hdr": 0,
    "dim[0]": 40,
    "dim[1]": 42,
    "dim[2]": 44,
    "dim[3]": 46,
    "dim[4]": 48,
    "datatype": 70,
    "bitpix": 72,
    "vox_offset": 108,
    "scl_slope": 112,
    "scl_inter": 116,
    "qform_code": 252,
    "sform_code": 254,
    "srow_x": 280,
    "srow_y": 296,
    "srow_z": 312,
    "magic": 344,
}


def write_both_forms(path: Path) -> Path:
    """A NIfTI whose qform and sform agree, so that damage of one is seen in the other."""
    ras = np.diag([-1, -1, 1, 1]) @ GRID.affine
    image = nibabel.Nifti1Image(LABELS, ras)
    image.set_qform(ras, code=1)
    image.set_sform(ras, code=1)
    nibabel.save(image, path)
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    **WRITERS,
    "a.nii": write_both_forms,
    "a.nii.gz": write_both_forms,
    "crop.seg.nrrd": lambda path: write_crop(path, LABELS, GRID.affine),
}


@dataclass(frozen=True)
class DamagedMask(Described):
    """A mask with one kind of damage."""

    kind: str
    file: str
    """Name of the undamaged file in `FILES`."""
    name: str
    note: str
    content: bytes = field(repr=False)


@functools.cache
def written(name: str) -> tuple[bytes, Mask]:
    """Return the content of an undamaged file, and its labels on the grid of the exam."""
    with TemporaryDirectory() as folder:
        path = FILES[name](Path(folder, name))
        mask = read_mask(path, _labels_of(name), like=GRID)
        assert mask.labels.any()
        return path.read_bytes(), mask


def _labels_of(name: str) -> str | None:
    """Return the table of labels that a user gives; other formats name their labels."""
    return "oai-zib" if any(suffix in name for suffix in (".nii", ".nrrd", ".mha")) else None


@st.composite
def damaged_masks(draw: Draw) -> DamagedMask:
    name, kind = draw(st.sampled_from(sorted(FILES))), draw(st.sampled_from(KINDS))
    content, new_name = written(name)[0], name
    at = draw(st.integers(0, _end_of_header(name, content) - 1))
    length = draw(st.integers(1, 300))
    note = f"{length} bytes at {at} of {len(content)}"
    if kind == "cut":
        at = draw(st.integers(0, len(content) - 1))
        content, note = content[:at], f"after {at} of {len(content)} bytes"
    elif kind == "bits":
        flipped = bytearray(content)
        flipped[at] ^= 1 << draw(st.integers(0, 7))
        content = bytes(flipped)
    elif kind in ("zeroed", "filled"):
        length = min(length, _end_of_header(name, content) - at)
        new = (
            b"\0" * length
            if kind == "zeroed"
            else draw(st.binary(min_size=length, max_size=length))
        )
        content = content[:at] + new + content[at + length :]
    elif kind == "inserted":
        content = content[:at] + draw(st.binary(min_size=1, max_size=300)) + content[at:]
    elif kind == "removed":
        content = content[:at] + content[at + length :]
    elif kind == "appended":
        content += draw(st.binary(min_size=1, max_size=300))
    elif kind == "header":
        content, note = _with_other_field(draw, name, content)
    else:
        new_name = draw(st.sampled_from([*FILES, "a.dcm", "a.txt", "a"]))
    return DamagedMask(kind, name, new_name, note, content)


def _end_of_header(name: str, content: bytes) -> int:
    """Return the number of bytes that a checksum, or a second copy in the header, protects."""
    if name == "a.nii":
        return 348
    if name == "raw.mha":
        return content.index(b"LOCAL")
    return content.index(b"\n\n") if name == "raw.nrrd" else len(content)


def _with_other_field(draw: Draw, name: str, content: bytes) -> tuple[bytes, str]:
    """Replace a field of the header by another value."""
    if name.endswith("nrrd"):
        header, _, data = content.partition(b"\n\n")
        lines = header.split(b"\n")
        number = draw(st.integers(1, len(lines) - 1))
        key, colon, _ = lines[number].partition(b": ")
        value = draw(st.sampled_from(TEXT_VALUES))
        lines[number] = key + colon + value.encode()
        return b"\n".join(lines) + b"\n\n" + data, f"{key.decode('latin-1')} = {value!r}"
    if name.endswith("mha"):
        header, place, data = content.partition(b"ElementDataFile")
        lines = header.split(b"\n")
        number = draw(st.integers(0, len(lines) - 2))
        key, equals, _ = lines[number].partition(b" = ")
        value = draw(st.sampled_from(TEXT_VALUES))
        lines[number] = key + equals + value.encode()
        return b"\n".join(lines) + place + data, f"{key.decode('latin-1')} = {value!r}"
    if not name.startswith("a.nii"):
        return content[::-1], "reversed"
    packed = name.endswith(".gz")
    plain = bytearray(gzip.decompress(content) if packed else content)
    key = draw(st.sampled_from(sorted(NIFTI_FIELDS)))
    size = 4 if NIFTI_FIELDS[key] >= 76 and "code" not in key else 2
    number = draw(st.sampled_from([0, 1, 2, -1, 7, 255, 30000, -32768]))
    value = struct.pack("<f" if size == 4 and key != "magic" else "<h", number).ljust(size, b"\0")
    plain[NIFTI_FIELDS[key] : NIFTI_FIELDS[key] + size] = value[:size]
    return gzip.compress(bytes(plain), mtime=0) if packed else bytes(plain), f"{key} = {number}"


def read(damage: DamagedMask) -> Outcome:
    with TemporaryDirectory() as folder:
        path = Path(folder, damage.name)
        path.write_bytes(damage.content)
        mask = read_mask(path, _labels_of(damage.file), like=GRID)
    whole = written(damage.file)[1]
    same = np.array_equal(mask.labels, whole.labels) and np.allclose(mask.affine, whole.affine)
    return Outcome.SAME if same and mask.meanings == whole.meanings else Outcome.SILENT


@few_or_many(150, 2000)
def test_read_mask__damaged_files(count: int, judge: Judge) -> None:
    tally = read_damaged(damaged_masks(), read, count)
    judge_tally(
        judge,
        f"{count:,} damaged masks in {len(FILES)} formats, {len(KINDS)} kinds of damage",
        tally,
    )
