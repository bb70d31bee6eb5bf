"""Damaged archives are listed before anything in them is used, or read as they were."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from qmri_lake.oai.inventory import inventory
from tests.conftest import Judge
from tests.fuzz.dicom_mutations import FOLDER, series
from tests.fuzz.fuzzing import Described, Draw, Outcome, few_or_many, judge_tally, read_damaged
from tests.fuzz.test_dicom import compare
from tests.oai.test_archives import pack

PACKINGS = ("tar", "gzip", "bzip2", "xz", "zip")
NAMES = (
    "9000001.tar.gz",
    "9000001.tar (1).gz",
    "9000001.tgz.part",
    "9000001.zip",
    "9000001.tar",
    "9000001",
    "notes.txt",
)
KINDS = ("cut", "bits", "zeroed", "filled", "inserted", "removed", "joined", "wrapped", "appended")
BLOCK = 512
"""Bytes of a block of a tar."""


@dataclass(frozen=True)
class DamagedArchive(Described):
    """An archive of one series with one kind of damage."""

    kind: str
    packing: str
    name: str
    note: str
    content: bytes = field(repr=False)


@functools.cache
def packed(packing: str) -> bytes:
    content: bytes = pack(packing, {f"{FOLDER}/{n}": c for n, c in series("dess").items()})
    return content


@st.composite
def damaged_archives(draw: Draw) -> DamagedArchive:
    packing, kind = draw(st.sampled_from(PACKINGS)), draw(st.sampled_from(KINDS))
    content = packed(packing)
    start, end = _checked_range(draw, packing, content)
    at = draw(st.integers(start, end - 1))
    length = draw(st.integers(1, min(700, end - at)))
    note = f"{length} bytes at {at} of {len(content)}"
    if kind == "cut":
        at = max(at, 8)  # fewer bytes are a text
        content, note = content[:at], f"after {at} of {len(content)} bytes"
    elif kind == "bits":
        flipped = bytearray(content)
        flipped[at] ^= 1 << draw(st.integers(0, 7))
        content = bytes(flipped)
    elif kind == "zeroed":
        content = content[:at] + b"\0" * length + content[at + length :]
    elif kind == "filled":
        noise = draw(st.binary(min_size=length, max_size=length))
        content = content[:at] + noise + content[at + length :]
    elif kind == "inserted":
        content = content[:at] + draw(st.binary(min_size=1, max_size=700)) + content[at:]
    elif kind == "removed":
        content = content[:at] + content[at + length :]
    elif kind == "joined":
        content = content[:at] + packed(draw(st.sampled_from(PACKINGS)))
    elif kind == "wrapped":
        inner = {draw(st.sampled_from(NAMES)): content}
        content = pack(draw(st.sampled_from(PACKINGS)), inner)
    else:
        content += draw(st.sampled_from([b"\0" * 600, b"\r\n", b"<html>", packed("zip")[:300]]))
    return DamagedArchive(kind, packing, draw(st.sampled_from(NAMES)), note, content)


def _checked_range(draw: Draw, packing: str, content: bytes) -> tuple[int, int]:
    """Return a range of bytes that a checksum protects: of a plain tar only the headers."""
    if packing != "tar":
        return 0, len(content)
    headers, at = [], 0
    while content[at : at + 1] not in (b"", b"\0"):
        headers.append(at)
        size = int(content[at + 124 : at + 135], 8)
        at += BLOCK * (1 + -(-size // BLOCK))
    header = draw(st.sampled_from(headers))
    return header, header + BLOCK


def read(damage: DamagedArchive) -> Outcome:
    with TemporaryDirectory() as root:
        Path(root, damage.name).write_bytes(damage.content)
        return compare(inventory(root), "dess")


@few_or_many(75, 1000)
def test_inventory__damaged_archives(count: int, judge: Judge) -> None:
    tally = read_damaged(damaged_archives(), read, count)
    judge_tally(judge, f"{count:,} damaged archives, {len(KINDS)} kinds of damage", tally)


def test_inventory__archive_that_declares_more_than_it_has() -> None:
    """A member of 1 TiB in 512 bytes costs neither memory nor time."""
    content = bytearray(packed("tar")[:BLOCK])
    content[124:136] = b"%011o\0" % 2**33
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    damage = DamagedArchive("declared", "tar", "a.tar", "", bytes(content) + struct.pack("<I", 0))
    assert read(damage) is Outcome.LISTED
