"""Key files: random numbers that are kept, readable for the owner only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.lake.date_shift import OFFSET_DAYS
from qmri_lake.lake.pseudonyms import NUMBERS, draw_pseudonyms

PATIENTS = range(9000001, 9000301)


def test_numbers__are_new_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    first = draw_pseudonyms(file, PATIENTS, PATIENTS, [])
    numbers = first.numbers(PATIENTS)
    assert len({*numbers}) == len(PATIENTS)
    assert not {*numbers.tolist()} & {*PATIENTS}
    assert NUMBERS[0] <= numbers.min() <= numbers.max() <= NUMBERS[1]
    days = first.days(PATIENTS)
    assert OFFSET_DAYS[0] <= days.min() < days.max() <= OFFSET_DAYS[1] < 0
    later = draw_pseudonyms(file, [77, *PATIENTS], [], [])
    assert later.numbers(PATIENTS).tolist() == numbers.tolist()
    assert later.days(PATIENTS).tolist() == days.tolist()
    assert later.numbers([77, 78])[1] == -1
    other = draw_pseudonyms(tmp_path / "other.json", PATIENTS, [], [])
    assert (other.numbers(PATIENTS) != numbers).mean() > 0.9


def test_numbers__have_another_order_than_the_patients(tmp_path: Path) -> None:
    numbers = draw_pseudonyms(tmp_path / "key.json", PATIENTS, [], []).numbers(PATIENTS)
    rising = (numbers[1:] > numbers[:-1]).mean()
    assert 0.3 < rising < 0.7


def test_file__is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    draw_pseudonyms(file, [1], [], [])
    assert file.stat().st_mode & 0o777 == 0o600
    draw_pseudonyms(file, [2], [], [])
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(json.loads(file.read_text())["patients"]) == ["1", "2"]
    file.chmod(0o640)
    with pytest.raises(RunError, match=r"others may read the key file \(mode 640\).*chmod 600"):
        draw_pseudonyms(file, [1], [], [])


def test_file__is_never_inside_a_lake(tmp_path: Path) -> None:
    lake = tmp_path / "a.lake"
    lake.mkdir()
    (tmp_path / "link").symlink_to(lake)
    for file in (lake / "key.json", tmp_path / "link" / "key.json", lake / "x" / ".." / "key.json"):
        with pytest.raises(RunError, match="inside a lake"):
            draw_pseudonyms(file, [1], [], ["s3://bucket/x", str(lake)])
    assert [*lake.iterdir()] == []
    with pytest.raises(NotFoundError, match="no such folder"):
        draw_pseudonyms(tmp_path / "no" / "key.json", [1], [], [])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "patients": {"a": 1}}']
)
def test_file__of_another_kind_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match="not a key file of this version"):
        draw_pseudonyms(file, [1], [], [])
    assert file.read_text() == content
