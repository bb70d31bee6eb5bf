"""Labels of osteoarthritis and pain, by named rules."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import append_exams, declare, write_table
from tests.fixtures import add_clinical, array_lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = array_lake(tmp_path_factory.mktemp("labels") / "small.lake", 24)
    replaced = (np.arange(24) == 7).astype(float)
    return add_clinical(
        lake,
        age=np.arange(50.0, 74.0),
        bmi=np.arange(24) % 7 + 22.0,
        sex=np.arange(24) % 2 + 1,
        kl=np.arange(24) % 5,
        replaced=replaced,
    )


def test_label_oa__cases_have_kl_2_and_replaced_knees_are_excluded(lake):
    labelled = ql.diagnosis.label_oa(lake.cohort())
    kept = [row for row in range(24) if row != 7]
    assert labelled.cohort.rows.tolist() == kept
    assert labelled.label.tolist() == [int(row % 5 >= 2) for row in kept]
    assert labelled.cohort.flow()["why"].iloc[-1] == "1 excluded: knee replaced"
    with pytest.raises(InputError, match="1 exam without a label"):
        ql.diagnosis.label_oa(lake.cohort(), missing="raise")
    with pytest.raises(InputError, match="at least 1 case and 1 control"):
        ql.diagnosis.label_oa(lake.cohort("kl < 2")).require_both_classes()
    with pytest.raises(InputError, match="empty cohort"):
        ql.diagnosis.label_oa(lake.cohort("age > 100"))


def test_labelled__last_visit_is_one_timepoint_a_patient(lake):
    last = ql.diagnosis.label_oa(lake.cohort()).last_visit()
    exams = last.cohort.exams
    every = lake.exams[np.arange(24) != 7]
    latest = every.groupby("patient")["timepoint"].max()
    assert (exams["timepoint"].to_numpy() == latest[exams["patient"]].to_numpy()).all()
    assert set(exams["patient"]) == set(every["patient"])
    assert len(last.label) == len(last.cohort)


def _visits(lake, **answers):
    def build(session):
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.group("visit"))
        keys = lake.exams[["patient", "timepoint", "knee"]]
        table = keys.assign(**{"replaced": 0.0, **answers})
        missing = {v.name: np.nan for v in REGISTRY.group("visit") if v.name not in table}
        write_table(root, "visit", table.assign(**missing))

    commit(lake.repo, build, "Add visits")
    return lake.refresh()


def test_label_pain__without_knowing_whether_the_knee_was_replaced(tmp_path):
    lake = _visits(
        array_lake(tmp_path / "l.lake", 4),
        replaced=[np.nan, 1.0, 0.0, np.nan],
        pain_months_12m=[9.0, 9.0, 0.0, 2.0],
        pain_any_12m=[1.0, 1.0, 0.0, 1.0],
    )
    labelled = ql.diagnosis.label_pain(lake.cohort())
    assert labelled.cohort.rows.tolist() == [0, 2]
    why = labelled.cohort.flow()["why"].iloc[-1]
    assert why == "1 excluded: knee replaced; 1 excluded: pain in fewer than 6 months"


def test_label_pain__counts_exams_without_a_label(tmp_path):
    lake = _visits(
        array_lake(tmp_path / "pain.lake", 6),
        pain_months_12m=[6.0, 12.0, 5.0, np.nan, 0.0, np.nan],
        pain_any_12m=[1.0, 1.0, 1.0, 0.0, 0.0, np.nan],
    )
    labelled = ql.diagnosis.label_pain(lake.cohort())
    assert labelled.label.tolist() == [1, 1, 0, 0]
    assert labelled.cohort.rows.tolist() == [0, 1, 3, 4]
    why = labelled.cohort.flow()["why"].iloc[-1]
    assert why == "1 excluded: pain in fewer than 6 months; 1 excluded: no answer"
    with pytest.raises(InputError, match="2 exams without a label"):
        ql.diagnosis.label_pain(lake.cohort(), missing="raise")
    often = ql.diagnosis.label_pain(lake.cohort(), "frequent_12m")
    assert len(often) == 0
    with pytest.raises(NotFoundError, match="no rule 'often'"):
        ql.diagnosis.label_pain(lake.cohort(), "often")


def test_label_pain__other_rules(tmp_path):
    exams = pd.DataFrame(
        {"patient": 9000001 + np.arange(6), "timepoint": 12, "knee": ["right", "left"] * 3}
    )
    lake = ql.create_lake(str(tmp_path / "pain.lake"))

    commit(lake.repo, lambda session: append_exams(session, exams), "Add exams")
    lake = lake.refresh()

    def shift(session):
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.group("visit"))
        keys = exams.assign(replaced=0.0)
        now = keys.assign(
            pain_months_12m=[9.0, 9.0, 0.0, 0.0, 9.0, 2.0],
            pain_any_12m=[1.0, 1.0, 0.0, 0.0, 1.0, 1.0],
            pain_most_days_12m=[1.0, 1.0, 0.0, 0.0, 1.0, np.nan],
        )
        before = keys.assign(
            timepoint=0,
            pain_months_12m=[8.0, 0.0, 0.0, 7.0, np.nan, 8.0],
            pain_any_12m=[1.0, 0.0, 0.0, 1.0, np.nan, 1.0],
        )
        table = pd.concat([before, now], ignore_index=True)
        missing = {v.name: np.nan for v in REGISTRY.group("visit") if v.name not in table}
        write_table(root, "visit", table.assign(**missing))

    commit(lake.repo, shift, "Add visits")
    lake = lake.refresh()
    chronic = ql.diagnosis.label_pain(lake.cohort())
    assert (chronic.cohort.rows.tolist(), chronic.label.tolist()) == (
        [0, 1, 2, 3, 4],
        [1, 1, 0, 0, 1],
    )
    often = ql.diagnosis.label_pain(lake.cohort(), "frequent_12m")
    assert (often.cohort.rows.tolist(), often.label.tolist()) == (
        [0, 1, 2, 3, 4],
        [1, 1, 0, 0, 1],
    )
    persistent = ql.diagnosis.label_pain(lake.cohort(), "persistent")
    assert (persistent.cohort.rows.tolist(), persistent.label.tolist()) == ([0, 2], [1, 0])
    why = persistent.cohort.flow()["why"].iloc[-1]
    assert "2 excluded: another answer 12 to 24 months before" in why
    assert "1 excluded: no answer 12 to 24 months before" in why


def test_labelled_cohort__keeps_its_public_name_of_version_0_1():
    assert ql.diagnosis.Labelled is ql.diagnosis.LabelledCohort
