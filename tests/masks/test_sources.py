"""Tables of labels: the known ones, and those of a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.label_tables import find_source
from qmri_lake.masks.sources import SOURCES
from qmri_lake.tissues import BONE, CARTILAGE


def test_sources__contain_only_known_tissues() -> None:
    for name, source in SOURCES.items():
        assert name == source.name
        assert set(source.tissues.values()) <= {*BONE, *CARTILAGE}, name
        assert set(source.parts) <= set(source.tissues), name
        assert 0 not in source.tissues


def test_sources__list_their_tissues_and_missing_ones() -> None:
    zib, imorphics = SOURCES["oai-zib"], SOURCES["imorphics"]
    assert zib.tissues_in(BONE) == ("femur", "tibia")
    assert zib.missing_tissues == ("patella", "patellar", "meniscus")
    assert not imorphics.has(BONE)
    assert imorphics.missing_tissues == ()
    assert SOURCES["bone-lesion"].tissues[9] == "patella", "a lesion is part of its bone"


@pytest.mark.parametrize(
    "labels",
    [
        {1: "femur", 4: "tibial", 5: "tibial"},
        {"1": "femur", "4": "tibial", 5: "tibial"},
        "1=femur, 4=tibial,5=tibial",
        "table.yaml",
    ],
)
def test_find_source__mapping_text_and_file_are_one(
    labels: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.yaml").write_text("1: femur\n4: tibial\n5: tibial\n")
    source = find_source(labels)  # type: ignore[arg-type]
    assert source.tissues == {1: "femur", 4: "tibial", 5: "tibial"}
    assert find_source(source) is source


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("oai-zip", r"expected one of oai-zib, .*Did you mean 'oai-zib'"),
        ({1: "femurr"}, r"no tissue 'femurr' \(expected one of .*Did you mean 'femur'"),
        ({256: "femur"}, r"256: femur \(expected numbers from 1 to 255"),
        ({0: "femur"}, "0 is always background"),
        ({8: "background"}, "a table without any tissue"),
        ("1=femur,x", "no tissue ''"),
        ("nowhere.yaml", "unreadable table: "),
    ],
)
def test_find_source__invalid_tables(labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_source(labels)  # type: ignore[arg-type]
    assert caught.value.reason in (Reason.UNKNOWN_LABEL, Reason.UNREADABLE_FILE)
    assert "\n" not in str(caught.value)
