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


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Four exams of each of 40 patients."""
    lake = array_lake(tmp_path_factory.mktemp("forty") / "forty.lake", 160)
    rng = np.random.default_rng(0)
    return add_clinical(
        lake, age=rng.normal(60, 8, 160), bmi=rng.normal(28, 3, 160), sex=rng.integers(1, 3, 160)
    )


@pytest.mark.parametrize(
    ("options", "validation", "test"),
    [
        ({}, [6, 9, 18, 23, 39], [4, 10, 12, 14, 19, 24, 25, 26, 30, 31, 32]),
        ({"seed": 7}, [1, 2, 15, 18, 21], [3, 6, 8, 9, 14, 16, 17, 26, 29, 30, 37]),
        (
            {"balance": (), "seed": 3},
            [9, 10, 14, 19, 33],
            [2, 6, 7, 8, 15, 17, 20, 27, 31, 37, 38],
        ),
    ],
)
def test_split__a_seed_gives_the_sets_of_version_0_1(forty, options, validation, test):
    sets = ql.split(forty.cohort(), **options)
    numbers = [sorted({*(part.exams["patient"] - 9000000)}) for part in sets[1:]]
    assert numbers == [validation, test]


def rare(patients, exams=160):
    """1 in the exams of some patients."""
    return np.isin(np.arange(exams) // 4 + 1, patients).astype(int)


def test_split__each_set_has_both_classes_of_the_outcome(forty, judge):
    """Three of 40 patients are cases: without the outcome, most seeds leave a set without cases."""
    outcome = rare([5, 17, 31])

    def sets_without(**options):
        sets = [ql.split(forty.cohort(), seed=seed, **options) for seed in range(10)]
        return sum(any(not outcome[part.rows].any() for part in one) for one in sets), sets

    plain, _ = sets_without(balance=("age",))
    given, sets = sets_without(balance=("age",), outcome=outcome)
    judge(
        "sets / an outcome of 3 in 40 patients, 10 seeds",
        required="cases in each set; without the outcome, a set without cases for some seeds",
        measured=f"{given} splits with a set without cases; {plain} without the outcome",
        passed=given == 0 and plain > 0,
    )
    assert all((1 - outcome[part.rows]).any() for one in sets for part in one)
    assert all(sum(map(len, one)) == 160 for one in sets)
    sizes = np.array([[len(part) for part in one] for one in sets]) / 160
    assert np.abs(sizes - (0.6, 0.12, 0.28)).max() < 0.05
    again = ql.split(forty.cohort(), balance=("age",), seed=0, outcome=outcome)
    assert [part.rows.tolist() for part in again] == [part.rows.tolist() for part in sets[0]]
    assert "balanced in age, the outcome, seed 0" in again.train.rows_of_flow[-1].condition


def test_split__divides_each_class_in_the_given_proportions(forty):
    """Each set has its share of the cases and of the controls, up to one patient (four exams)."""
    outcome = rare(np.random.default_rng(1).permutation(40)[:12] + 1)
    shares = np.array([0.6, 0.12, 0.28])
    for seed in range(5):
        sets = ql.split(forty.cohort(), outcome=outcome, seed=seed)
        for value, count in ((1, 48), (0, 112)):
            exams = np.array([(outcome[part.rows] == value).sum() for part in sets])
            assert np.abs(exams - shares * count).max() <= 4


def test_split__a_patient_with_both_classes_serves_both(forty):
    """The only controls are exams of three patients who have cases as well."""
    outcome = np.ones(160, int)
    outcome[[4 * 2, 4 * 11, 4 * 30]] = 0
    for seed in range(5):
        sets = ql.split(forty.cohort(), outcome=outcome, seed=seed)
        assert [len({*outcome[part.rows]}) for part in sets] == [2, 2, 2]


def test_split__an_outcome_is_a_column_of_the_cohort(forty):
    sets = ql.split(forty.cohort(), balance=("age",), outcome="sex")
    assert all(part.table(["sex"])["sex"].nunique() == 2 for part in sets)
    assert "balanced in age, sex, seed 0" in sets.test.rows_of_flow[-1].condition


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (rare([5, 17]), r"the outcome is 1 in exams of 2 patients of 40 \(expected at least 3 pat"),
        (1 - rare([5]), r"the outcome is 0 in exams of 1 patient of 40 .*Choose a larger cohort"),
        (np.ones(160), r"1 different value of the outcome: 1.0 \(expected two"),
        (np.arange(160) % 3, r"3 different values of the outcome: 0, 1, 2 \(expected two"),
        (rare([5], exams=8), r"8 values of the outcome for 160 exams \(expected one value for"),
        (
            np.where(np.arange(160) < 2, np.nan, rare([5, 6, 7])),
            r"2 exams of 160 without a value of the outcome \(expected a value for each",
        ),
    ],
)
def test_split__refuses_an_outcome_that_cannot_be_in_each_set(forty, outcome, words):
    with pytest.raises(InputError, match=words):
        ql.split(forty.cohort(), outcome=outcome)
