"""Privacy kinds: every text and date is declared, and an undeclared text counts as free text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qmri_lake.execution.step import load_steps
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.privacy import OWN_TABLE, Privacy, Treatment
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.status import STATUS_VARIABLES
from qmri_lake.store.transaction import KEY_VARIABLES, declare
from tests.fixtures import add_clinical, array_lake


def needs_kind(variable: Variable) -> bool:
    """Whether the values may be texts or dates."""
    text = variable.dtype == "string" or np.dtype(variable.dtype).kind in "mM"
    return text or " since " in variable.unit


def test_variables__of_texts_and_dates_declare_their_kind() -> None:
    load_steps()
    known = [*REGISTRY, *KEY_VARIABLES, *STATUS_VARIABLES]
    assert [v.path for v in known if needs_kind(v) and v.privacy is None] == []
    assert sum(needs_kind(v) for v in known) >= 8
    assert needs_kind(Variable("visit", "seen", (), "float64", "", "days since 2000-01-01"))


def test_variables__that_are_numbers_of_patients_or_characteristics_declare_their_kind() -> None:
    for group in ("clinical", "visit"):
        for name in ("age", "sex", "bmi"):
            assert REGISTRY[f"{group}/{name}"].privacy is Privacy.CHARACTERISTIC
    numbers = [v for v in (*REGISTRY, *KEY_VARIABLES) if v.name == "patient"]
    assert [v.privacy for v in numbers] == [Privacy.PATIENT] * 2


def test_undeclared__text_is_free_text_and_own_columns_are_own() -> None:
    note = Variable("clinical", "note", (), "string", "Note")
    assert note.privacy_kind is Privacy.TEXT
    assert note.privacy_kind.treatment is Treatment.REMOVE
    assert Variable("msme", "mine", (), "float32", "Mine").privacy_kind is Privacy.MEASUREMENT
    own = Variable("clinical", "mine", (), "float64", "Mine", step=f"{OWN_TABLE}x")
    assert own.privacy_kind is Privacy.OWN


def test_kinds__have_a_purpose() -> None:
    assert all(kind.purpose for kind in Privacy)


def test_stored__kind_is_read_back_and_older_arrays_have_that_of_the_code(tmp_path: Path) -> None:
    lake = add_clinical(array_lake(tmp_path / "a.lake", 4), age=np.arange(4) + 50)
    assert lake.root["clinical/age"].attrs["privacy"] == "patient characteristic"
    seen = Variable("clinical", "seen", (), "string", "Date", privacy=Privacy.DATE)

    def build(session):
        root = open_root(session.store, "r+")
        declare(root, [seen])
        del root["clinical/age"].attrs["privacy"]

    commit(lake.repo, build, "As in an earlier version")
    stored = lake.refresh().variables()
    assert stored["clinical/seen"].privacy is Privacy.DATE
    assert stored["clinical/age"].privacy is None
    assert REGISTRY.privacy_of(stored["clinical/age"]) is Privacy.CHARACTERISTIC


@pytest.mark.parametrize("value", ["", "no such kind", 3, None])
def test_stored__unknown_kind_of_a_text_is_free_text(tmp_path: Path, value: object) -> None:
    lake = add_clinical(array_lake(tmp_path / "a.lake", 2))

    def build(session):
        root = open_root(session.store, "r+")
        declare(root, [Variable("clinical", "note", (), "string", "Note")])
        root["clinical/note"].attrs["privacy"] = value

    commit(lake.repo, build, "Add a note")
    assert lake.refresh().variables()["clinical/note"].privacy_kind is Privacy.TEXT
