"""Splits: by patient, the same for the same seed, balanced."""

from __future__ import annotations

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.splitting import CohortSplit, read_split, save_split
from qmri_lake.storage import commit, open_root
from qmri_lake.variables import REGISTRY
from qmri_lake.writing import declare, write_table
from tests.fixtures import add_clinical, array_lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = array_lake(tmp_path_factory.mktemp("split") / "small.lake", 24)
    sex, kl = np.arange(24) % 3 % 2 + 1, np.arange(24) % 5
    return add_clinical(lake, age=np.arange(50.0, 74.0), bmi=np.arange(24) % 7 + 22.0,
                        sex=sex, kl=kl, replaced=np.zeros(24))  # fmt: skip


def test_split__patients_in_one_set_and_every_exam_in_one(lake):
    sets = ql.split(lake.cohort())
    assert sorted(np.concatenate([part.rows for part in sets])) == list(range(24))
    patients = [set(part.exams["patient"]) for part in sets]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    again = ql.split(lake.cohort())
    assert [part.rows.tolist() for part in again] == [part.rows.tolist() for part in sets]


@pytest.mark.parametrize("fractions", [(0.6, 0.1, 0.1), (0.7, 0.3), (0.8, 0.2, 0.0)])
def test_split__fractions_that_do_not_add_up(lake, fractions):
    with pytest.raises(InputError, match="three numbers above 0 of sum 1"):
        ql.split(lake.cohort(), fractions)


def test_split__no_exam(lake):
    with pytest.raises(InputError, match="a cohort of 0 exams"):
        ql.split(lake.cohort("age > 100"))


def test_save_split__comes_back_and_refuses_a_patient_in_two_sets(lake, tmp_path):
    sets = ql.split(lake.cohort())
    back = read_split(lake, save_split(sets, tmp_path / "models" / "split.json"))
    assert [part.rows.tolist() for part in back] == [part.rows.tolist() for part in sets]
    with pytest.raises(InputError, match="in train and in validation"):
        save_split(CohortSplit(sets[0], sets[0], sets[2]), tmp_path / "split.json")


def test_label_oa__cases_have_kl_2(lake):
    labelled = ql.diagnosis.label_oa(lake.cohort())
    assert labelled.label.tolist() == [int(k % 5 >= 2) for k in range(24)]
    with pytest.raises(InputError, match="at least 1 of each"):
        ql.diagnosis.label_oa(lake.cohort("kl < 2")).require_both_classes()


def test_table_1__counts_add_up(lake):
    counts = ql.report.table_1(ql.split(lake.cohort())).counts.groupby("group")["exams"].sum()
    assert counts["all"] == counts["cases"] + counts["controls"] == 24


def _visits(lake, **answers):
    def build(session):
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.group("visit"))
        table = lake.exams[["patient", "timepoint", "knee"]].assign(replaced=0.0, **answers)
        missing = {v.name: np.nan for v in REGISTRY.group("visit") if v.name not in table}
        write_table(root, "visit", table.assign(**missing))

    commit(lake.repo, build, "Add visits")
    return lake.refresh()


def test_label_pain__counts_who_has_no_label(tmp_path):
    lake = _visits(
        array_lake(tmp_path / "pain.lake", 6),
        pain_months_12m=[6.0, 12.0, 5.0, np.nan, 0.0, np.nan],
        pain_any_12m=[1.0, 1.0, 1.0, 0.0, 0.0, np.nan],
    )
    labelled = ql.diagnosis.label_pain(lake.cohort())
    assert labelled.label.tolist() == [1, 1, 0, 0]
    assert labelled.cohort.rows.tolist() == [0, 1, 3, 4]
    told = labelled.cohort.flow()["why"].iloc[-1]
    assert told == "1 pain in fewer than 6 months, 1 without an answer"
    with pytest.raises(InputError, match="2 exams without a label"):
        ql.diagnosis.label_pain(lake.cohort(), missing="raise")
    with pytest.raises(NotFoundError, match="no rule 'often'"):
        ql.diagnosis.label_pain(lake.cohort(), "often")
