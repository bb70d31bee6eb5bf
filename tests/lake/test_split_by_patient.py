"""Splits by patient: sizes, separation of patients, and errors."""

from __future__ import annotations

from itertools import chain, product

import numpy as np
import pandas as pd
import pytest

from qmri_lake.errors import InputError
from qmri_lake.lake.split_by_patient import SPLITS, draw_members, split_by_patient


def table(sizes) -> pd.DataFrame:
    """Exams of as many patients as there are sizes."""
    patient = np.repeat(9000001 + np.arange(len(sizes)), sizes)
    return pd.DataFrame({"exam": [f"e{k:05d}" for k in range(len(patient))], "patient": patient})


def patients(exams, keys) -> set:
    return set(exams.set_index("exam").loc[keys, "patient"])


def check(exams, split) -> None:
    people = [patients(exams, split[name]) for name in SPLITS]
    assert all(people)
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]


def test_split_by_patient__sizes_of_the_paper():
    exams = table([1] * 102)
    split = split_by_patient(exams)
    assert [len(split[name]) for name in SPLITS] == [57, 15, 30]
    assert sorted(chain(*split.values())) == sorted(exams["exam"])


@pytest.mark.parametrize("seed", range(5))
def test_split_by_patient__no_patient_in_two_splits(seed):
    rng = np.random.default_rng(seed)
    exams = table(rng.integers(1, 14, 40))
    split = split_by_patient(exams, seed=seed)
    check(exams, split)
    assert sorted(chain(*split.values())) == sorted(exams["exam"])
    wanted = np.array([57, 15, 30]) / 102 * len(exams)
    sizes = [len(split[name]) for name in SPLITS]
    assert np.abs(sizes - wanted).max() <= 1


@pytest.mark.parametrize("sizes", [(2, 2, 2), (9, 1, 1, 1), (4, 3, 2, 2, 1, 1), (1, 1, 1, 1, 30)])
def test_split_by_patient__is_as_close_to_the_proportions_as_possible(sizes):
    exams = table(sizes)
    wanted = np.array([57, 15, 30]) / 102 * len(exams)

    def distance(counts):
        return float(((np.array(counts) - wanted) ** 2).sum())

    every = [
        [sum(n for n, p in zip(sizes, places, strict=True) if p == k) for k in range(3)]
        for places in product(range(3), repeat=len(sizes))
    ]
    best = min(distance(counts) for counts in every if all(counts))
    split = split_by_patient(exams, seed=4)
    check(exams, split)
    assert distance([len(split[name]) for name in SPLITS]) == pytest.approx(best)


def test_split_by_patient__seeds_and_order():
    exams = table([2] * 30)
    split = split_by_patient(exams, seed=1)
    shuffled = exams.sample(frac=1, random_state=3)
    again = split_by_patient(shuffled, seed=1)
    assert {name: set(keys) for name, keys in again.items()} == {
        name: set(keys) for name, keys in split.items()
    }
    assert again["test"] == [key for key in shuffled["exam"] if key in set(split["test"])]
    assert split_by_patient(exams, seed=2) != split


@pytest.mark.slow
def test_split_by_patient__each_patient_can_be_in_each_split():
    exams = table([1] * 20)
    counts = pd.Series(0, index=exams["exam"])
    for seed in range(200):
        counts[split_by_patient(exams, seed=seed)["test"]] += 1
    # 200 draws of 6 of 20: 60 +- 6.5 each.
    assert counts.min() > 35
    assert counts.max() < 85


def test_split_by_patient__too_few_patients():
    with pytest.raises(
        InputError,
        match=r"2 patients in 20 exams \(expected at least 3 patients: no set may be empty",
    ):
        split_by_patient(table([10, 10]))


@pytest.mark.parametrize("fractions", [(1, 0, 1), (1, -1, 1), (1, np.nan, 1)])
def test_split_by_patient__odd_proportions(fractions):
    with pytest.raises(InputError, match="expected numbers above 0"):
        split_by_patient(table([1] * 9), fractions)


def test_draw_members__sizes_of_the_paper():
    exams = table([1] * 176)
    drawn = draw_members(exams)
    assert len(drawn) == 6
    for split in drawn:
        assert [len(split[name]) for name in SPLITS] == [50, 98, 28]
        check(exams, split)
        assert split["test"] == drawn[0]["test"]
    assert len({tuple(split["train"]) for split in drawn}) == 6


def test_draw_members__scales_to_the_exams():
    exams = table([3, 1, 2, 2, 4, 1, 1, 2, 3, 1])
    for split in draw_members(exams, 4, seed=7):
        check(exams, split)
        sizes = np.array([len(split[name]) for name in SPLITS])
        assert np.abs(sizes - np.array([50, 98, 28]) / 176 * 20).max() < 1


def test_draw_members__part_of_the_pool():
    exams = table([1] * 176)
    (split,) = draw_members(exams, 1, train=20, validation=10)
    assert [len(split[name]) for name in SPLITS] == [20, 10, 28]
    check(exams, split)


def test_draw_members__three_patients_are_enough():
    exams = table([4, 4, 4])
    for seed in range(10):
        for split in draw_members(exams, 2, seed=seed):
            check(exams, split)


def test_draw_members__rejects_impossible_sizes():
    with pytest.raises(InputError, match=r"2 patients in 8 exams \(expected at least 3"):
        draw_members(table([4, 4]))
    with pytest.raises(InputError, match=r"pool = 100 \(expected at least 50 \+ 98"):
        draw_members(table([1] * 9), pool=100)
    with pytest.raises(InputError, match="members = 0"):
        draw_members(table([1] * 9), 0)
