"""Splits by patient: balanced and reproducible by seed."""

from __future__ import annotations

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError
from qmri_lake.lake.balanced_split import CohortSplit, read_split, save_split
from tests.fixtures import add_clinical, array_lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = array_lake(tmp_path_factory.mktemp("split") / "small.lake", 24)
    sex, kl = np.arange(24) % 3 % 2 + 1, np.arange(24) % 5
    return add_clinical(
        lake,
        age=np.arange(50.0, 74.0),
        bmi=np.arange(24) % 7 + 22.0,
        sex=sex,
        kl=kl,
        replaced=np.zeros(24),
    )


def test_split__patients_in_one_set_and_every_exam_in_one(lake):
    sets = ql.split(lake.cohort())
    assert sorted(np.concatenate([part.rows for part in sets])) == list(range(24))
    patients = [set(part.exams["patient"]) for part in sets]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]
    again = ql.split(lake.cohort())
    assert [part.rows.tolist() for part in again] == [part.rows.tolist() for part in sets]


@pytest.mark.parametrize("fractions", [(0.6, 0.1, 0.1), (0.7, 0.3), (0.8, 0.2, 0.0)])
def test_split__fractions_that_do_not_add_up(lake, fractions):
    with pytest.raises(InputError, match="three numbers above 0 with sum 1"):
        ql.split(lake.cohort(), fractions)


def test_split__sets_differ_less_than_by_chance(lake):
    def apart(sets):
        means = [part.table(["age", "bmi"])[["age", "bmi"]].astype(float).mean() for part in sets]
        return float(np.ptp([m["age"] for m in means]) + np.ptp([m["bmi"] for m in means]))

    cohort = lake.cohort()
    chance = [apart(ql.split(cohort, balance=(), seed=seed)) for seed in range(12)]
    assert apart(ql.split(cohort)) < np.quantile(chance, 0.25)


def test_split__too_few_patients_and_no_value(lake):
    one = lake.cohort().of_exams([str(lake.exams["exam"][0])], "one")
    with pytest.raises(InputError, match=r"1 patient in 1 exam \(expected at least 3"):
        ql.split(one)
    with pytest.raises(InputError, match="no exam has a value of 'womac_pain'"):
        ql.split(lake.cohort(), balance=("womac_pain",))


def test_split__no_exam(lake):
    with pytest.raises(InputError, match="split: empty cohort"):
        ql.split(lake.cohort("age > 100"))


def test_save_split__round_trip_and_a_patient_in_two_sets(lake, tmp_path):
    sets = ql.split(lake.cohort())
    back = read_split(lake, save_split(sets, tmp_path / "models" / "split.json"))
    assert [part.rows.tolist() for part in back] == [part.rows.tolist() for part in sets]
    with pytest.raises(InputError, match="is in train and in validation"):
        save_split(CohortSplit(sets[0], sets[0], sets[2]), tmp_path / "split.json")


def test_table_1__counts_add_up(lake):
    counts = ql.report.table_1(ql.split(lake.cohort())).counts.groupby("group")["exams"].sum()
    assert counts["all"] == counts["cases"] + counts["controls"] == 24
