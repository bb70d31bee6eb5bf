"""Sets of exams by patient: for few exams, and without clinical columns.

The set sizes are as near to the wanted sizes as the patients allow, which is important with only a
few dozen reference masks. A training that resumes computes its sets again from the seed, so a seed
must give the same sets in every version.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError

__all__ = [
    "SPLITS",
    "Patients",
    "Split",
    "check_patients",
    "draw_members",
    "patients_of",
    "split_by_patient",
]

Split = dict[str, list[str]]
"""Exam keys by name of the set."""

SPLITS = ("train", "validation", "test")
"""Names of the sets, in the order that is used everywhere."""

_EXHAUSTIVE = 8
"""Number of patients that are assigned last, by trying all combinations: 3 ** 8 for three sets."""


class Patients(NamedTuple):
    """Patients of some exams, sorted by number so that the order of the exams has no effect."""

    of_exam: NDArray[np.intp]
    """(exam,): position of each exam's patient among the sorted patients."""
    exams: NDArray[np.intp]
    """(patient,): number of exams of each patient."""

    def __len__(self) -> int:
        return len(self.exams)


def patients_of(exams: pd.DataFrame) -> Patients:
    """Return the patients of a table of exams with a column patient."""
    _, of_exam, counts = np.unique(
        exams["patient"].to_numpy(), return_inverse=True, return_counts=True
    )
    return Patients(of_exam, counts)


def split_by_patient(
    exams: pd.DataFrame, fractions: Sequence[float] = (57, 15, 30), seed: int = 0
) -> Split:
    """Divide exams into training, validation and test sets without a common patient.

    Parameters
    ----------
    exams : DataFrame
        Table with columns exam and patient, such as ``cohort.exams``. The order of the rows has no
        effect.
    fractions : (train, validation, test)
        Proportions, with any sum. Default: the numbers of volumes in the sets of the bone networks,
        102 in total. [paper]
    seed : int
        Seed of the random division.

    Returns
    -------
    dict of list of str
        Exam keys by name of the set (`SPLITS`), in the order of `exams`. The sizes are as near to
        the proportions as the patients allow. No set is empty.

    Raises
    ------
    InputError
        If there are fewer than three patients, or if a proportion is not above 0.

    Examples
    --------
    >>> exams = pd.DataFrame({"exam": ["a", "b", "c", "d"], "patient": [1, 1, 2, 3]})
    >>> {name: len(keys) for name, keys in split_by_patient(exams, (2, 1, 1)).items()}
    {'train': 2, 'validation': 1, 'test': 1}
    """
    places = _divide(exams, fractions, np.random.default_rng(seed), "split_by_patient")
    return {name: _keys(exams, places == k) for k, name in enumerate(SPLITS)}


def draw_members(
    exams: pd.DataFrame,
    members: int = 6,
    seed: int = 0,
    *,
    test: int = 28,
    train: int = 50,
    validation: int = 98,
    pool: int = 148,
) -> list[Split]:
    """Draw training and validation sets for each member of an ensemble, and a common test set.

    Parameters
    ----------
    exams : DataFrame
        Table with columns exam and patient.
    members : int
        Number of members.
    seed : int
        Seed of all draws.
    test, train, validation, pool : int
        Numbers of volumes. All volumes are divided into the test set and the pool; the training and
        validation sets are drawn from the pool. Default: the numbers of the cartilage networks.
        [paper] They are scaled to the number of exams.

    Returns
    -------
    list of dict
        One division for each member, as returned by `split_by_patient`. The set ``"test"`` is the
        same for all members. No patient is in two sets of a member.

    Raises
    ------
    InputError
        If there are fewer than three patients, if there is no member, or if the pool is smaller
        than `train` + `validation`.
    """
    where, few = "draw_members", members < 1
    if members < 1 or train + validation > pool:
        raise InputError(
            f"members = {members}" if few else f"pool = {pool}",
            expected="at least 1" if few else f"at least {train} + {validation}",
            where=where,
        )
    check_patients(exams, 3, where)
    is_test = _divide(exams, (test, pool), np.random.default_rng([seed, 0]), where, (1, 2)) == 0
    rest = exams[~is_test]
    fractions = (train, validation, pool - train - validation)
    drawn = []
    for member in range(members):
        rng = np.random.default_rng([seed, member + 1])
        places = _divide(rest, fractions[: 3 if fractions[2] else 2], rng, where, (1, 1, 0))
        drawn.append(
            {
                "train": _keys(rest, places == 0),
                "validation": _keys(rest, places == 1),
                "test": _keys(exams, is_test),
            }
        )
    return drawn


def _keys(exams: pd.DataFrame, chosen: NDArray[np.bool_]) -> list[str]:
    return [str(key) for key in exams["exam"].to_numpy()[chosen]]


def check_patients(exams: pd.DataFrame, least: int, where: str) -> None:
    """Raise an error if the exams are of fewer than `least` patients."""
    found = exams["patient"].nunique()
    if found < least:
        raise InputError(
            f"{counted(found, 'patient')} in {counted(len(exams), 'exam')}",
            expected=f"at least {least} patients: no set may be empty, and no patient in two sets",
            where=where,
            todo="Choose a larger cohort.",
        )


def _divide(
    exams: pd.DataFrame,
    fractions: Sequence[float],
    rng: np.random.Generator,
    where: str,
    least: Sequence[int] = (1, 1, 1),
) -> NDArray[np.intp]:
    """Return the set of each exam, as a position in `fractions`.

    `least` are the minimum numbers of patients in the sets.
    """
    shares = np.asarray(fractions, float)
    least = least[: len(shares)]
    if not (np.isfinite(shares) & (shares > 0)).all():
        raise InputError(f"fractions = {tuple(fractions)}", expected="numbers above 0", where=where)
    check_patients(exams, sum(least), where)
    patients = patients_of(exams)
    sizes = patients.exams
    wanted = shares / shares.sum() * len(exams)
    places = np.empty(len(patients), int)
    order = rng.permutation(len(patients))
    filled, people = np.zeros(len(shares)), np.zeros(len(shares), int)
    by_chance, exhaustive = order[:-_EXHAUSTIVE], order[-_EXHAUSTIVE:]
    for p in by_chance:
        # The probability of a set is proportional to its free places. If the sets were filled one
        # after another, a set would get only the first patients.
        free = np.clip(wanted - filled - sizes[p] / 2, 1e-9, None)
        k = rng.choice(len(shares), p=free / free.sum())
        places[p] = k
        filled[k] += sizes[p]
        people[k] += 1
    options = np.array(list(product(range(len(shares)), repeat=len(exhaustive))))
    options = options[rng.permutation(len(options))]
    chosen = options[:, :, None] == np.arange(len(shares))
    total = filled + (chosen * sizes[exhaustive][None, :, None]).sum(axis=1)
    cost = ((total - wanted) ** 2).sum(axis=1)
    cost[(people + chosen.sum(axis=1) < np.array(least)).any(axis=1)] = np.inf
    places[exhaustive] = options[cost.argmin()]
    return places[patients.of_exam]
