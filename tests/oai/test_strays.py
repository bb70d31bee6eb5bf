"""Files in the place of a slice that are not DICOM."""

from __future__ import annotations

import os
import random

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.dicom import read_dicom
from qmri_lake.oai.inventory import inventory

OPTIONS = {"patient": 9000001, "timepoint": 0, "knee": "right"}
SIZE = 1000


def in_place_of(path, content):
    path.write_bytes(content(path.read_bytes()))


CONTENTS = {
    "HTML or XML": lambda old: b"<html><body>403 Forbidden</body></html>" * 20,
    "JSON": lambda old: b'{"error": "' + b"x" * 280 + b'"}',
    "zeros": lambda old: bytes(len(old)),
    "unknown bytes": lambda old: random.Random(0).randbytes(len(old)),
    "an empty file": lambda old: b"",
    "text": lambda old: b"no such key",
    "a pointer of Git LFS": lambda old: b"version https://git-lfs.github.com/spec/v1\n",
    "a PDF": lambda old: b"%PDF-1.4 " + bytes(500),
}


@pytest.mark.parametrize("at", [0, 3, 5], ids=["first", "middle", "last"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_inventory__refuses_a_series_with_another_file_as_slice(tmp_path, write_series, kind, at):
    path = write_series(tmp_path).paths[at]
    in_place_of(path, CONTENTS[kind])
    found = inventory(tmp_path, **OPTIONS)
    assert found.series == ()
    (problem,) = found.problems
    reason = Reason.TRUNCATED_FILE if kind == "an empty file" else Reason.NOT_DICOM
    assert (problem.reason, problem.where) == (reason, path.name)
    assert problem.found == f"{kind} in the place of a slice"
    assert problem.exam == "9000001-000m-right"
    with pytest.raises(InputError, match=f"{kind} in the place of a slice"):
        read_dicom(tmp_path)


def test_inventory__names_all_strays_of_a_series(tmp_path, write_series):
    for path in write_series(tmp_path).paths[3:]:
        in_place_of(path, CONTENTS["zeros"])
    (problem,) = inventory(tmp_path, **OPTIONS).problems
    assert problem.found == "zeros in the place of a slice, and 2 more files: 005, 006"


@pytest.mark.parametrize("name", ["006.html", "007.dcm", "7", "006.dcm.part", "006.json"])
def test_inventory__stray_under_another_name(tmp_path, write_series, name):
    path = write_series(tmp_path).paths[5]
    path.write_text("not found")
    path.rename(tmp_path / name)
    for other in write_series(tmp_path).paths[:5]:
        other.rename(other.with_name(f"{other.name}.dcm") if "dcm" in name else other)
    (tmp_path / "006").unlink()
    found = inventory(tmp_path, **OPTIONS)
    assert [(p.reason, p.where) for p in found.problems] == [(Reason.NOT_DICOM, name)]
    assert found.series == ()


def test_inventory__stray_of_the_size_of_a_slice(tmp_path, write_series):
    path = write_series(tmp_path).paths[5]
    in_place_of(path, CONTENTS["zeros"])
    path.rename(tmp_path / "download-b7")
    assert [p.where for p in inventory(tmp_path, **OPTIONS).problems] == ["download-b7"]


@pytest.mark.parametrize(
    "name", ["001.png", "MD5SUMS", "._001", "notes.doc", ".DS_Store", "9000001.csv", "t2.json"]
)
def test_inventory__other_files_beside_slices(tmp_path, write_series, name):
    write_series(tmp_path)
    (tmp_path / name).write_bytes(b"anything" * 40)
    found = inventory(tmp_path, **OPTIONS)
    assert found.problems == ()
    assert len(found.series) == 1
    assert read_dicom(tmp_path).image.shape == (1, 6, 8, 6)


def test_inventory__series_of_zeros_only(tmp_path, write_series):
    for path in write_series(tmp_path / "1").paths:
        in_place_of(path, CONTENTS["zeros"])
    (problem,) = inventory(tmp_path).problems
    assert (problem.reason, problem.where) == (Reason.NOT_DICOM, "1/001")
    assert problem.found.startswith("zeros in the place of a slice, and 5 more files: 002, 003")


def test_inventory__stray_belongs_to_the_series_of_its_size(tmp_path, write_series):
    write_series(tmp_path)
    left = {"series": "SAG_3D_DESS_LEFT", "study": "OAI^MR^ENROLLMENT^LEFT", "shape": (20, 20)}
    paths = write_series(tmp_path, **left, start=11, uid="1.2.9").paths
    in_place_of(paths[5], CONTENTS["zeros"])
    options = {"patient": 9000001, "timepoint": 0}
    found = inventory(tmp_path, **options)
    assert [series.knee for series in found.series] == ["right"]
    assert [(p.where, p.exam) for p in found.problems] == [("016", "9000001-000m-left")]
    # An error page has the size of no series: both may have lost a slice.
    in_place_of(paths[5], CONTENTS["text"])
    assert inventory(tmp_path, **options).series == ()


def test_inventory__headers_that_prove_the_series_whole(tmp_path, write_series, set_header):
    paths = write_series(tmp_path).paths
    for number, path in enumerate(paths, 1):
        set_header(
            path, InstanceNumber=number, ImagesInAcquisition=len(paths), SpacingBetweenSlices=0.7
        )
    (tmp_path / "007").write_text("not found")
    found = inventory(tmp_path, **OPTIONS)
    assert len(found.series) == 1
    assert [(p.reason, p.where) for p in found.problems] == [(Reason.NOT_DICOM, "007")]
    paths[5].unlink()  # now a slice is missing
    assert inventory(tmp_path, **OPTIONS).series == ()


def test_inventory__report_in_the_place_of_a_slice(tmp_path, write_series, set_header):
    path = write_series(tmp_path).paths[5]
    content = path.read_bytes().replace(
        b"1.2.840.10008.5.1.4.1.1.4\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0"
    )
    path.write_bytes(content)
    (problem,) = inventory(tmp_path, **OPTIONS).problems
    assert problem.found == "DICOM without an image in the place of a slice"


def test_read_dicom__listed_file_that_is_not_dicom(tmp_path, write_series):
    paths = write_series(tmp_path).paths
    in_place_of(paths[5], CONTENTS["JSON"])
    with pytest.raises(InputError, match="JSON in the place of a slice"):
        read_dicom(paths)


def test_inventory__device_in_the_place_of_a_slice(tmp_path, write_series):
    path = write_series(tmp_path).paths[5]
    path.unlink()
    os.mkfifo(path)
    assert [p.found for p in inventory(tmp_path, **OPTIONS).problems] == ["a device or a pipe"]
