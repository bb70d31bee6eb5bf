"""Tables of labels: the known ones, and those of a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.label_tables import find_source
from qmri_lake.masks.sources import SOURCES
from qmri_lake.tissues import BONE, CARTILAGE, DIVIDED


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


def test_sources__tell_medial_from_lateral_as_their_words_do() -> None:
    for name, source in SOURCES.items():
        told = {number: words for number, words in source.parts.items() if "al " in words}
        sided = {n: w.split()[0] for n, w in told.items() if w.split()[0] in ("medial", "lateral")}
        assert source.sides == sided, name
        assert {source.tissues[number] for number in source.sides} <= set(DIVIDED), name
    assert SOURCES["skm-tea"].sides == {3: "medial", 4: "lateral", 5: "medial", 6: "lateral"}
    assert SOURCES["imorphics"].sides == {2: "lateral", 3: "medial", 5: "lateral", 6: "medial"}
    assert not SOURCES["iwoai"].sides, "the challenge does not document the order"
    assert SOURCES["oai-zib-uq"].timepoint == 0
    assert SOURCES["akoa"].tissues == SOURCES["bone-lesion"].tissues


def test_find_source__parts_of_tissues() -> None:
    source = find_source("1=femur,4=medial tibial,5=lateral tibial,Inner=medial meniscus")
    assert source.tissues == {1: "femur", 4: "tibial", 5: "tibial"}
    assert source.named == {"Inner": "meniscus"}
    assert source.sides == {4: "medial", 5: "lateral", "Inner": "medial"}
    with pytest.raises(InputError, match=r"no tissue 'medial femoral' .*Did you mean"):
        find_source({1: "medial femoral"})


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
