"""Archives: recognised by content, checked to their end, and bounded."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.inventory import inventory, read_series
from qmri_lake.oai.walk import walk

RIGHT = "9000001-000m-right"
MODES = {"tar": "w", "gzip": "w:gz", "bzip2": "w:bz2", "xz": "w:xz"}


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Content of the files of one series, by their names in a delivery."""
    from tests.oai.conftest import write

    root = tmp_path_factory.mktemp("slices")
    folder = "00m/0.C.2/9000001/20040824/1"
    written = write(root / folder, slices=3)
    return {f"{folder}/{path.name}": path.read_bytes() for path in written.paths}


def pack(kind, members):
    """Return the bytes of an archive."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(fileobj=stream, mode=MODES[kind]) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def found_in(folder, name, content):
    """Return the inventory of a folder with one file."""
    (folder / name).write_bytes(content)
    return inventory(folder)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tar", "9000001"),
        ("tar", "9000001.tar_1"),
        ("gzip", "9000001.tar (1).gz"),
        ("gzip", "9000001.gz_1"),
        ("gzip", "9000001.tgz.part"),
        ("gzip", "notes.txt"),
        ("bzip2", "9000001.tar.bz2"),
        ("xz", "9000001.txz"),
        ("zip", "9000001.zip"),
        ("zip", "9000001 (2)"),
    ],
)
def test_inventory__archive_under_any_name(tmp_path, slices, kind, name):
    found = found_in(tmp_path, name, pack(kind, slices))
    assert found.problems == ()
    (series,) = found.series
    assert series.exam == RIGHT
    (tmp_path / name).unlink()
    for path, content in slices.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    volume = read_series(inventory(tmp_path).series[0])
    (tmp_path / name).write_bytes(pack(kind, slices))
    assert read_series(series).digest == volume.digest


def test_walk__archive_without_a_suffix_as_source(tmp_path, slices):
    (tmp_path / "delivery").write_bytes(pack("zip", slices))
    (series,) = inventory(tmp_path / "delivery").series
    assert series.exam == RIGHT


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zip"])
@pytest.mark.parametrize("damage", ["cut", "cut in its last bytes", "bit", "zeros"])
def test_inventory__nothing_of_a_damaged_archive(tmp_path, slices, kind, damage):
    whole = pack(kind, slices)
    digest = read_series(found_in(tmp_path, "9000001.tar.gz", whole).series[0]).digest
    rng = random.Random(f"{kind} {damage}")
    for _ in range(8):
        content = bytearray(whole)
        at = rng.randrange(12, len(whole))
        if damage == "cut":
            del content[at:]
        elif damage == "bit":
            content[at] ^= 1 << rng.randrange(8)
        elif damage == "zeros":
            content[at : at + 64] = bytes(len(content[at : at + 64]))
        else:
            del content[-rng.randrange(1, 30) :]
        found = found_in(tmp_path, "9000001.tar.gz", bytes(content))
        if found.series:  # a bit of a date or of padding, which no checksum covers
            assert damage in ("bit", "zeros")
            assert read_series(found.series[0]).digest == digest
            continue
        (problem,) = found.problems
        assert problem.reason in (Reason.DAMAGED_ARCHIVE, Reason.TRUNCATED_FILE)
        assert "Nothing of it was used" in problem.todo


def test_inventory__tar_gz_cut_inside_its_checksum(tmp_path, slices):
    whole = pack("gzip", slices)
    for lost in range(1, 9):
        (problem,) = found_in(tmp_path, "9000001.gz", whole[:-lost]).problems
        assert problem.reason is Reason.TRUNCATED_FILE


def end_of(content):
    """Return where the two zero blocks of a tar begin."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + (last.size + 511) // 512 * 512


@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: b[: end_of(b)], Reason.TRUNCATED_FILE),
        (lambda b: b[: end_of(b) + 512], Reason.TRUNCATED_FILE),
        (lambda b: b[: end_of(b) + 1500], Reason.TRUNCATED_FILE),
        (lambda b: b[: end_of(b) - 700], Reason.TRUNCATED_FILE),
        (lambda b: b + b, Reason.DAMAGED_ARCHIVE),
        (lambda b: b + b"more".ljust(512), Reason.DAMAGED_ARCHIVE),
    ],
    ids=["no end", "half an end", "cut in the end", "cut in a member", "two tars", "more bytes"],
)
def test_inventory__tar_without_a_proper_end(tmp_path, slices, spoil, reason, packed):
    found = found_in(tmp_path, "x.tar", packed(spoil(pack("tar", slices))))
    assert found.series == ()
    assert [problem.reason for problem in found.problems] == [reason]


def test_inventory__tar_with_a_damaged_header(tmp_path, slices):
    content = bytearray(pack("tar", slices))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        content[tar.getmembers()[1].offset + 100] ^= 1
    found = found_in(tmp_path, "x.tar", bytes(content))
    assert [problem.reason for problem in found.problems] == [Reason.DAMAGED_ARCHIVE]
    assert found.series == ()


def test_inventory__damaged_archive_does_not_affect_others(tmp_path, slices):
    (tmp_path / "a.tar.gz").write_bytes(pack("gzip", slices)[:-5])
    (tmp_path / "b.tar.gz").write_bytes(pack("gzip", slices))
    (tmp_path / "c.tar.gz").write_bytes(b"<html>not found</html>")
    (tmp_path / "d.zip").write_bytes(b"")
    found = inventory(tmp_path)
    assert [series.exam for series in found.series] == [RIGHT]
    assert [(problem.where.partition("/")[0], problem.reason) for problem in found.problems] == [
        ("a.tar.gz", Reason.TRUNCATED_FILE),
        ("c.tar.gz", Reason.DAMAGED_ARCHIVE),
        ("d.zip", Reason.DAMAGED_ARCHIVE),
    ]


@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("type_", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_inventory__declared_size_of_a_tebibyte(tmp_path, slices, packed, type_):
    huge = tarfile.TarInfo("9000002/001")
    huge.size, huge.type = 1 << 40, type_
    content = huge.tobuf(format=tarfile.GNU_FORMAT) + bytes(2048)
    (tmp_path / "good.tar").write_bytes(pack("tar", slices))
    found = found_in(tmp_path, "bad.tar", packed(content))
    assert [series.exam for series in found.series] == [RIGHT]
    assert [problem.where.partition("/")[0] for problem in found.problems] == ["bad.tar"]


@pytest.mark.parametrize("kind", ["tar", "gzip", "zip"])
def test_inventory__large_member_is_listed_and_not_read(tmp_path, slices, kind, monkeypatch):
    monkeypatch.setattr("qmri_lake.oai.archives.LARGEST_FILE", 1 << 16)
    members = {"raw/zeros": bytes(1 << 20), **slices}
    found = found_in(tmp_path, "x", pack(kind, members))
    assert [(problem.reason, problem.where) for problem in found.problems] == [
        (Reason.OVERSIZED_FILE, "x/raw/zeros")
    ]
    assert [series.exam for series in found.series] == [RIGHT]


def test_inventory__zip_whose_members_share_their_bytes(tmp_path):
    content = pack("zip", {"a": bytes(10_000_000)})
    end = content.rfind(b"PK\5\6")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    row = content[start:end]
    tail = bytearray(content[end:])
    tail[8:12] = (60).to_bytes(2, "little") * 2
    tail[12:16] = (60 * len(row)).to_bytes(4, "little")
    (problem,) = found_in(tmp_path, "x", content[:start] + row * 60 + bytes(tail)).problems
    assert "share their bytes" in problem.found


def special(kind):
    info = tarfile.TarInfo("9000001/00m/4")
    info.type, info.linkname = kind, "9000001/00m/3"
    return info


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device"),
        (tarfile.REGTYPE, "a path that leads out of the archive"),
    ],
)
def test_inventory__not_a_file_among_the_slices_of_a_tar(tmp_path, slices, kind, found):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, content in enumerate(slices.values(), 1):
            info = tarfile.TarInfo(f"9000001/00m/{number}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        extra = special(kind)
        if kind == tarfile.REGTYPE:
            extra.name = "../9000001/00m/4"
        tar.addfile(extra)
    result = found_in(tmp_path, "x", stream.getvalue())
    assert [problem.found for problem in result.problems] == [f"{found} in an archive"]
    assert result.series == ()


def test_inventory__link_and_encryption_in_a_zip(tmp_path, slices):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, "001")
        zipped.writestr("locked", b"x" * 40)
    content = bytearray(stream.getvalue())
    content[content.rfind(b"PK\1\2") + 8] |= 1
    problems = found_in(tmp_path, "x", bytes(content)).problems
    assert [problem.found for problem in problems] == [
        "a link in an archive",
        "an encrypted file in an archive",
    ]


def test_inventory__gzipped_slices(tmp_path, slices):
    for number, content in enumerate(slices.values()):
        gz = number != 1
        name = f"{number:03d}.dcm" + ".gz" * (number == 0)
        (tmp_path / name).write_bytes(gzip.compress(content) if gz else content)
    options = {"patient": 9000001, "timepoint": 0, "knee": "right"}
    found = inventory(tmp_path, **options)
    assert found.problems == ()
    assert read_series(found.series[0]).image.shape == (3, 8, 6)
    last = tmp_path / "002.dcm"
    last.write_bytes(last.read_bytes()[:-4])
    found = inventory(tmp_path, **options)
    assert [(problem.reason, problem.where) for problem in found.problems] == [
        (Reason.TRUNCATED_FILE, "002.dcm")
    ]
    assert found.series == ()


def test_inventory__gzipped_slices_in_a_zip(tmp_path, slices):
    members = {f"{name}.gz": gzip.compress(content) for name, content in slices.items()}
    found = found_in(tmp_path, "x", pack("zip", members))
    assert found.problems == ()
    assert read_series(found.series[0]).image.shape == (3, 8, 6)


def test_walk__pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "001")
    ((entry,),) = walk(tmp_path)
    assert entry.error is not None
    assert "a device or a pipe" in str(entry.error)


def test_walk__no_archive_of_an_unsupported_kind(tmp_path):
    (tmp_path / "x").write_bytes(b"Rar!\x1a\x07" + bytes(50))
    with pytest.raises(InputError, match=r"kind rar \(expected tar, tar.gz"):
        list(walk(tmp_path / "x"))
