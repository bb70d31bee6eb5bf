"""Random divisions of patients into sets, each of which has both classes of an outcome."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError
from qmri_lake.lake.split_by_patient import SPLITS, Patients

__all__ = ["OutcomeClasses", "fill_sets"]

_FIRST, _SECOND, _BOTH = 0, 1, 2
"""Strata of patients: exams of the first class only, of the second class only, or of both."""


class OutcomeClasses(NamedTuple):
    """The two classes of an outcome, and the patients who have exams of each class."""

    values: NDArray[np.float64]
    """(exam,) 0 or 1: the class of each exam."""
    stratum: NDArray[np.intp]
    """(patient,) 0 to 2: exams of the first class only, of the second class only, of both."""

    @classmethod
    def of(cls, outcome: pd.Series, patients: Patients, where: str) -> OutcomeClasses:
        """Return the classes of an outcome; check that each set can have both.

        Parameters
        ----------
        outcome : Series (exam,)
            Two different values. The name of the Series is used in messages.
        patients : Patients
            Patients of the exams.
        where : str
            Name of the caller, for messages.

        Raises
        ------
        InputError
            If values are missing, if there are not two different values, or if fewer patients than
            sets have exams of a class.
        """
        name, missing = str(outcome.name), int(outcome.isna().sum())
        if missing:
            raise InputError(
                f"{counted(missing, 'exam')} of {len(outcome):,} without a value of {name}",
                expected="a value for each exam",
                where=f"{where}: outcome",
                todo="Exclude these exams first, with Cohort.where or Cohort.with_outcome.",
            )
        codes, found = pd.factorize(outcome, sort=True)
        if len(found) != len((_FIRST, _SECOND)):
            few = ", ".join(map(str, found[:5].tolist()))
            raise InputError(
                f"{counted(len(found), 'different value')} of {name}: {few}",
                expected="two different values, such as 0 and 1",
                where=f"{where}: outcome",
                todo="Define cases and controls: Cohort.with_outcome, or one value for each exam.",
            )
        has = np.stack(
            [np.bincount(patients.of_exam[codes == k], minlength=len(patients)) > 0 for k in (0, 1)]
        )
        for value, of_class in zip(found.tolist(), has, strict=True):
            if of_class.sum() < len(SPLITS):
                raise InputError(
                    f"{name} is {value} in exams of {counted(int(of_class.sum()), 'patient')} of "
                    f"{len(patients):,}",
                    expected=f"at least {len(SPLITS)} patients, one in each of {', '.join(SPLITS)}",
                    where=f"{where}: outcome",
                    todo="Choose a larger cohort or another outcome.",
                )
        return cls(codes.astype(float), np.where(has.all(axis=0), _BOTH, has[1].astype(int)))

    def draw(
        self, rng: np.random.Generator, sizes: NDArray[np.intp], shares: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Return a random set for each patient (patient,).

        Each set first gets a patient of each class, or a patient with exams of both. The other
        patients of each stratum then fill the sets in proportion to the shares.

        Parameters
        ----------
        rng : Generator
        sizes : (patient,) int
            Number of exams of each patient.
        shares : (set,) float64
            Proportions of the sets, with sum 1.
        """
        order = rng.permutation(len(sizes))
        strata = [order[self.stratum[order] == k] for k in (_FIRST, _SECOND, _BOTH)]
        sets = rng.permutation(len(shares))
        pairs = min(len(strata[_FIRST]), len(strata[_SECOND]), len(sets))
        places = np.full(len(sizes), -1)
        for k in (_FIRST, _SECOND):
            places[strata[k][:pairs]] = sets[:pairs]
        places[strata[_BOTH][: len(sets) - pairs]] = sets[pairs:]
        for members in strata:
            rest = members[places[members] < 0]
            given = members[places[members] >= 0]
            placed = np.bincount(places[given], sizes[given], len(shares)).astype(np.float64)
            places[rest] = fill_sets(sizes[rest], placed, shares)
        return places


def fill_sets(
    sizes: NDArray[np.intp],
    placed: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> NDArray[np.intp]:
    """Return the set of each patient, if patients in a given order fill the sets one by one.

    Parameters
    ----------
    sizes : (patient,) int
        Number of exams of each patient, in random order.
    placed : (set,) float64
        Number of exams that are in the sets already.
    shares : (set,) float64
        Proportions of all exams, with sum 1.
    """
    if not sizes.size:
        return np.empty(0, np.intp)
    wanted = np.clip(shares * (sizes.sum() + placed.sum()) - placed, 0, None)
    ends = np.cumsum(wanted) / wanted.sum()
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    places: NDArray[np.intp] = np.searchsorted(ends[:-1], middles)
    return places
