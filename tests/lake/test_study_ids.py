"""Identifiers of patients that are not numbers: their numbers, queries and privacy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.core.compressed_parts import Part
from qmri_lake.core.patient_traces import PatientTraces
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.lake.study_ids import (
    PatientNumbers,
    assigned_number,
    find_patient_number,
    patient_number,
    read_study_ids,
)
from qmri_lake.schema.visits import ASSIGNED, PATIENTS
from qmri_lake.store.trace_search import search_objects
from tests.image_files.writers import knee_affine, signal, write_image

PATTERN = "{patient}_{timepoint}m_{knee}.nii.gz"
NAMES = ("SKM-0042_0m_L", "SKM-0042_24m_L", "P007_0m_R", "0815_0m_L", "9000798_0m_L")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of five exams of four patients; never changed by a test."""
    folder: Path = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(NAMES):
        side = "left" if name.endswith("L") else "right"
        write_image(folder / "d" / f"{name}.nii.gz", signal(seed), knee_affine(side))
    ql.ingest(folder / "d", folder / "l.lake", pattern=PATTERN, group="dess")
    return folder / "l.lake"


@pytest.fixture
def lake(stored: Path, tmp_path: Path) -> ql.Lake:
    return ql.open_lake(str(shutil.copytree(stored, tmp_path / "copy.lake")))


def test_patient_numbers__are_stable_and_never_those_of_the_oai(lake: ql.Lake) -> None:
    texts = [f"P{n:03d}" for n in range(300)]
    one, other = PatientNumbers().add(texts), PatientNumbers(lake).add(reversed(texts))
    assert one == other
    assert one["P007"] == find_patient_number(lake, "P007") == assigned_number("P007")
    numbers = list(one.values())
    assert len(set(numbers)) == 300
    assert all(ASSIGNED[0] <= n <= ASSIGNED[1] <= PATIENTS[1] for n in numbers)  # type: ignore[operator]
    assert min(numbers) > 9_999_999  # type: ignore[type-var]


def test_patient_numbers__resolve_equal_numbers(lake: ql.Lake) -> None:
    taken = PatientNumbers()
    wanted = assigned_number("P007")
    found = taken.add(["P007", str(wanted)])
    assert found == {str(wanted): wanted, "P007": wanted + 1}
    refused = PatientNumbers(lake).add([str(find_patient_number(lake, "P007")), "p007"])
    assert all(isinstance(error, InputError) for error in refused.values())
    assert "was assigned to an identifier of the study" in str(refused[str(wanted)])
    assert "also written with other capitals" in str(refused["p007"])


def test_study_ids__are_stored_beside_the_number(lake: ql.Lake) -> None:
    assert set(read_study_ids(lake.root).values()) == {"P007", "SKM-0042", "0815"}
    exams = lake.cohort("study_id == 'SKM-0042'").exams
    assert sorted(exams["timepoint"]) == [0, 24]
    # Leading zeros are kept as text; the number is the number.
    assert lake.cohort("study_id == '0815'").exams["exam"].tolist() == ["0000815-000m-left"]
    assert "9000798-000m-left" in set(lake.exams["exam"])
    ds = lake.load("clinical", lake.cohort("timepoint == 24"))
    assert ds.study_id.values.tolist() == ["SKM-0042"]
    assert patient_number("P007") is None
    with pytest.raises(NotFoundError, match="no patient 'P008'"):
        find_patient_number(lake, "P008")
    assert lake.validate(deep=True) == []


def test_forget__removes_the_identifier(lake: ql.Lake) -> None:
    number = find_patient_number(lake, "SKM-0042")
    traces = PatientTraces(number, "SKM-0042")
    assert search_objects(lake.location, traces).found
    planned = lake.forget("SKM-0042", dry_run=True)
    assert (planned.patient, len(planned.exams), planned.done) == (number, 2, False)
    done = lake.forget("SKM-0042")
    assert done.search is not None
    assert done.search.found == ()
    assert set(read_study_ids(lake.refresh().root).values()) == {"P007", "0815"}
    assert len(lake) == 3
    # Other identifiers stay at their exams, whose rows have moved.
    assert lake.cohort("study_id == 'P007'").exams["knee"].tolist() == ["right"]
    assert b"SKM-0042" not in b"".join(
        path.read_bytes() for path in Path(lake.url).rglob("*") if path.is_file()
    )
    again = lake.forget("SKM-0042")
    assert not again.found
    # The number is not given to another patient, and to this one again.
    assert PatientNumbers(lake).add(["SKM-0042"]) == {"SKM-0042": number}


def test_forget__finds_the_identifier_in_any_object(lake: ql.Lake) -> None:
    lake.repo.create_tag("SKM-0042 visit", snapshot_id=lake.snapshot)
    found = PatientTraces(find_patient_number(lake, "SKM-0042"), "SKM-0042")
    assert found.in_text("SKM-0042 visit")
    assert found.in_text("a/SKM-0042_24m.nii")
    assert not found.in_text("SKM-00421")
    assert found.without({"file": "SKM-0042.nii"}) == {"file": "(removed).nii"}
    assert found.in_part(Part(b"\x08\0\0\0SKM-0042", 1, compressed=True))
    short = PatientTraces(1_234_567_890, "T2")
    assert not short.in_text("T2 map")  # also a word with other meanings
    assert short.in_part(Part(b'["T2"]', 1, compressed=False))


def test_derive__replaces_the_identifier(lake: ql.Lake, tmp_path: Path) -> None:
    target = lake.derive(
        str(tmp_path / "shared.lake"),
        lake.cohort(),
        ["dess/image", "clinical/study_id"],
        pseudonymise=tmp_path / "key.json",
    )
    texts = target.root["clinical/study_id"][:].tolist()
    numbers = target.exams["patient"].tolist()
    assert sorted(t for t in texts if t) == sorted(
        str(n) for n, t in zip(numbers, texts, strict=True) if t
    )
    assert sum(map(bool, texts)) == 4
    content = b"".join(p.read_bytes() for p in (tmp_path / "shared.lake").rglob("*") if p.is_file())
    for text in (b"SKM-0042", b"P007"):
        assert text not in content
    assert not search_objects(target.location, PatientTraces(1, "P007")).found
    places = target.identifiers()
    assert not places["place"].str.contains("SKM").any()


def test_identifiers__list_the_column_and_texts(lake: ql.Lake) -> None:
    table = lake.identifiers().set_index(["place", "kind"])["count"]
    assert table["clinical/study_id", "patient number"] == 4
    lake.repo.create_tag("before-skm", snapshot_id=lake.snapshot)
    assert ("names of tags", "patient number") not in lake.identifiers().set_index(
        ["place", "kind"]
    ).index
    lake.repo.create_tag("without SKM-0042", snapshot_id=lake.snapshot)
    table = lake.identifiers().set_index(["place", "kind"])["count"]
    assert table["names of tags", "patient number"] == 1


def test_ingest_table__joins_by_the_identifier(lake: ql.Lake, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,age\nP007,61\nSKM-0042,52\n0815,40\nP009,1\n9000798,70\n")
    result = ql.ingest_table(tmp_path / "t.csv", lake, patient="id", prefix="my_")
    assert (result.matched, len(result.problems)) == (5, 1)
    assert result.problems[0].where == "t.csv row 5 column id"
    assert "an identifier in the column study_id" in result.problems[0].expected
    found = lake.refresh().cohort("my_age > 50").exams
    assert sorted(found["timepoint"]) == [0, 0, 0, 24]
    assert lake.cohort("study_id == 'P007' and my_age == 61").exams["knee"].tolist() == ["right"]
    # Lists of patients take numbers of ten digits.
    number = find_patient_number(lake, "P007")
    assert len(lake.cohort(ids=[number])) == 1


def test_write_study_ids__refuses_a_column_of_a_user(stored: Path, tmp_path: Path) -> None:
    lake = ql.open_lake(str(shutil.copytree(stored, tmp_path / "copy.lake")))
    with pytest.raises(InputError, match="study_id"):
        lake.add_table(
            lake.exams[["patient"]].assign(study_id="a").drop_duplicates(), patient="patient"
        )
