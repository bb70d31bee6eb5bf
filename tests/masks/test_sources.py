"""Tables of labels: the known ones, and those of a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.sources import SOURCES, find_source
from qmri_lake.tissues import BONE, CARTILAGE


def test_sources__name_only_tissues_that_there_are() -> None:
    for name, source in SOURCES.items():
        assert name == source.name
        assert set(source.tissues.values()) <= {*BONE, *CARTILAGE}, name
        assert set(source.parts) <= set(source.tissues), name
        assert 0 not in source.tissues


def test_sources__say_what_they_make_and_lack() -> None:
    zib, imorphics = SOURCES["oai-zib"], SOURCES["imorphics"]
    assert zib.made(BONE) == ("femur", "tibia")
    assert zib.lacks == ("patella", "patellar", "meniscus")
    assert not imorphics.has(BONE)
    assert imorphics.lacks == ()
    assert SOURCES["bone-lesion"].tissues[9] == "patella", "a lesion is part of its bone"


@pytest.mark.parametrize(
    "labels",
    [{1: "femur", 4: "tibial", 5: "tibial"}, {"1": "femur", "4": "tibial", 5: "tibial"},
     "1=femur, 4=tibial,5=tibial", "table.yaml"],
)  # fmt: skip
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
        ("oai-zip", r"expected one of oai-zib, .*Did you mean oai-zib"),
        ({1: "femurr"}, r"the tissue 'femurr'; expected one of .*Did you mean femur"),
        ({256: "femur"}, "found 256: femur; expected numbers of 1 to 255"),
        ({0: "femur"}, "0 is always background"),
        ({8: "background"}, "a table without any tissue"),
        ("1=femur,x", "the tissue ''"),
        ("nowhere.yaml", "a table that can't be read"),
    ],
)
def test_find_source__what_is_no_table(labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_source(labels)  # type: ignore[arg-type]
    assert caught.value.reason in (Reason.UNKNOWN_LABEL, Reason.UNREADABLE_FILE)
    assert "\n" not in str(caught.value)
