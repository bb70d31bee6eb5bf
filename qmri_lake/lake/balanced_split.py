"""Training, validation and test sets by patient, reproducible by seed.

`split` is for cohorts with clinical columns and uses the most balanced of 500 random divisions.
`split_by_patient` and `draw_members` of `qmri_lake.lake.split_by_patient` need no clinical columns.
Both methods must be kept: a training that resumes computes its sets again from the seed, so a seed
must give the same sets in every version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.outcome_split import OutcomeClasses, fill_sets
from qmri_lake.lake.split_by_patient import (
    SPLITS,
    Patients,
    Split,
    check_patients,
    patients_of,
)

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = [
    "SPLITS",
    "CohortSplit",
    "Split",
    "read_split",
    "save_split",
    "split",
]

_DRAWS = 500
"""Number of random divisions of the patients, of which the most balanced one is used."""


class CohortSplit(NamedTuple):
    """Three cohorts of one lake without a common patient."""

    train: Cohort
    validation: Cohort
    test: Cohort


def split(
    cohort: Cohort,
    fractions: Sequence[float] = (0.6, 0.12, 0.28),
    balance: Sequence[str] = ("age", "bmi", "sex"),
    seed: int = 0,
    outcome: str | ArrayLike | None = None,
) -> CohortSplit:
    """Divide a cohort into training, validation and test sets without a common patient.

    Patients are assigned to the sets at random 500 times. The result is the division whose sets
    differ least in the means of the columns in `balance`. The difference is measured by the
    between-set variance divided by the total variance, summed over columns. [assumption] With an
    `outcome`, patients with exams of each class are divided separately, so that each set has both
    classes, in similar proportions.

    Parameters
    ----------
    cohort : Cohort
        Exams to divide. All exams of a patient are in the same set.
    fractions : (train, validation, test)
        Proportions of the exams, each above 0, with sum 1. Default: the proportions of the paper's
        21,118 knees. [paper]
    balance : sequence of str
        Clinical columns in which the sets should not differ. [paper] They are numeric or contain
        two different strings. A missing value is replaced by the cohort's mean. If empty, the first
        division is used.
    seed : int
        Seed of the random divisions. The order of exams in the cohort has no effect. A seed gives
        other sets with an `outcome` than without.
    outcome : str, or sequence (exam,), optional
        Two classes that each set must have: a column of the cohort, such as one that
        `Cohort.with_outcome` added, or one value for each exam in the order of ``cohort.exams``,
        such as the labels of a `LabelledCohort`. Error messages contain the name of a Series. No
        value may be missing. Default: sets may have one class only.

    Returns
    -------
    CohortSplit
        The train, validation and test sets, none of which is empty. Patients with several exams
        limit how well the sizes match the fractions. The last row of each flow gives the fractions,
        the columns of `balance`, the outcome and the seed.

    Raises
    ------
    InputError
        If there is no exam, if there are fewer than three patients, if `fractions` are not three
        numbers above 0 with sum 1, or if a column of `balance` has no values. If `outcome` has
        missing values or not two classes, or if fewer than three patients have exams of a class.
    QueryError
        If there is no such column.
    """
    shares = _shares(fractions)
    if not len(cohort):
        raise InputError(
            "empty cohort",
            expected="exams of at least 3 patients",
            where="split",
            todo="cohort.flow() shows which condition excluded the exams.",
        )
    check_patients(cohort.exams, 3, "split")
    patients = patients_of(cohort.exams)
    sums = _standardised_sums(cohort, balance, patients)
    classes = None
    balanced = list(balance)
    if outcome is not None:
        column = _outcome_column(cohort, outcome)
        classes = OutcomeClasses.of(column, patients, "split")
        sums.append(_patient_sums(classes.values, patients))
        balanced.append(str(column.name))
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(patients), int), np.inf
    for _ in range(_DRAWS if sums else 1):
        if classes is None:
            places = _assign(rng.permutation(len(patients)), patients.exams, shares)
        else:
            places = classes.draw(rng, patients.exams, shares)
        exams = np.bincount(places, patients.exams, len(SPLITS))
        cost = sum(float((np.bincount(places, s, len(SPLITS)) ** 2 / exams).sum()) for s in sums)
        if cost < least:
            best, least = places, cost
    rule = f"{'/'.join(f'{s:g}' for s in fractions)} by patient"
    rule += f", balanced in {', '.join(balanced)}, seed {seed}" if balanced else f", seed {seed}"
    place = best[patients.of_exam]
    sets = [
        cohort.keep(place == k, f"{name} set: {rule}", "in another set")
        for k, name in enumerate(SPLITS)
    ]
    return _check_sets(CohortSplit(*sets), "split")


def _shares(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(fractions, float)
    good = shares.shape == (len(SPLITS),) and bool((np.isfinite(shares) & (shares > 0)).all())
    if not good or abs(shares.sum() - 1) > 1e-6:
        total = f" with sum {shares.sum():g}" if good else ""
        raise InputError(
            f"fractions = {tuple(fractions)}{total}",
            expected="three numbers above 0 with sum 1: train, validation, test",
            where="split",
            todo="Use fractions such as (0.6, 0.12, 0.28).",
        )
    return shares


def _standardised_sums(
    cohort: Cohort, balance: Sequence[str], patients: Patients
) -> list[NDArray[np.float64]]:
    """Return one array per column: each patient's sum of standardised values over the exams."""
    sums: list[NDArray[np.float64]] = []
    table = cohort.table(list(balance)) if balance else None
    for name in balance:
        assert table is not None
        values = _numbers(table[name], name)
        if np.isnan(values).all():
            raise InputError(
                f"no exam has a value of {name!r}",
                expected="a column with values",
                where="split: balance",
                todo="Ingest the clinical tables, or remove the column from balance.",
            )
        sums.append(_patient_sums(values, patients))
    return sums


def _patient_sums(values: NDArray[np.float64], patients: Patients) -> NDArray[np.float64]:
    """Return each patient's sum (patient,) of standardised values (exam,), without NaN."""
    spread = np.nanstd(values)
    z = np.nan_to_num((values - np.nanmean(values)) / (spread if spread > 0 else 1.0))
    return np.bincount(patients.of_exam, z, len(patients)).astype(np.float64)


def _outcome_column(cohort: Cohort, outcome: str | ArrayLike) -> pd.Series:
    """Return the values of an outcome, one for each exam; the name describes it in messages."""
    if isinstance(outcome, str):
        return cohort.table([outcome])[outcome]
    name = outcome.name if isinstance(outcome, pd.Series) and outcome.name else "the outcome"
    values = pd.Series(np.asarray(outcome).ravel(), name=name)
    if len(values) != len(cohort):
        raise InputError(
            f"{counted(len(values), 'value')} of {name} for {counted(len(cohort), 'exam')}",
            expected="one value for each exam, in the order of cohort.exams",
            where="split: outcome",
        )
    return values


def _numbers(column: pd.Series, name: str) -> NDArray[np.float64]:
    """Return a column as numbers. Two strings become 0 and 1 in alphabetical order."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    codes, words = pd.factorize(column, sort=True)
    if len(words) > 2:
        raise InputError(
            f"column {name!r} has {len(words)} different strings",
            expected="a numeric column, or a column with two different strings",
            where="split: balance",
        )
    return np.where(codes < 0, np.nan, codes)


def _assign(
    order: NDArray[np.intp], sizes: NDArray[np.intp], shares: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the set of each patient.

    The first patients in `order` are assigned one to each set. The others fill the sets one after
    another. `order` (patient,) is random; `sizes` (patient,) are numbers of exams; `shares` have
    sum 1.
    """
    places = np.empty(len(order), int)
    first, rest = order[: len(shares)], order[len(shares) :]
    places[first] = np.arange(len(shares))
    places[rest] = fill_sets(sizes[rest], sizes[first].astype(np.float64), shares)
    return places


def _check_sets(sets: CohortSplit, where: str) -> CohortSplit:
    """Return the sets; raise an error if one is empty or a patient is in two of them."""
    seen: dict[int, str] = {}
    for name, part in zip(SPLITS, sets, strict=True):
        if not len(part):
            raise InputError(f"empty {name} set", expected="at least 1 exam", where=where)
        for patient in np.unique(part.exams["patient"]).tolist():
            if patient in seen:
                raise InputError(
                    f"patient {patient} is in {seen[patient]} and in {name}",
                    expected="each patient in one set",
                    where=where,
                    todo="Split again by patient.",
                )
            seen[patient] = name
    return sets


def save_split(sets: Sequence[Cohort], path: str | os.PathLike[str]) -> Path:
    """Write a split to a JSON file, with the exam keys by set and the lake's snapshot.

    Parameters
    ----------
    sets : (train, validation, test)
        Cohorts as returned by `split`.
    path : path
        The JSON file. Its folder is created if it does not exist.

    Raises
    ------
    InputError
        If a patient is in two sets, or if a set is empty.
    """
    sets = _check_sets(CohortSplit(*sets), "save_split")
    record = {
        "snapshot": sets.train.lake.snapshot,
        "rule": sets.train.rows_of_flow[-1].condition,
        **{n: c.exams["exam"].tolist() for n, c in zip(SPLITS, sets, strict=True)},
    }
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, json.dumps(record, indent=1) + "\n")
    return file


def read_split(lake: Snapshot, path: str | os.PathLike[str]) -> CohortSplit:
    """Read a split written by `save_split`. Exams appended to the lake since then are in no set.

    Raises
    ------
    NotFoundError
        If there is no such file, or if the lake lacks exams of the split.
    InputError
        If the file is not a split, or if a patient is in two sets.
    """
    file = Path(path)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        keys = [[str(key) for key in record[name]] for name in SPLITS]
    except FileNotFoundError:
        raise NotFoundError(
            "no such file", expected="a split written by save_split", where=str(file)
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"not a split ({type(error).__name__}: {error})",
            expected=f"JSON with {', '.join(SPLITS)}",
            where=str(file),
            reason=Reason.UNREADABLE_FILE,
        ) from None
    everything = Cohort.everything(lake)
    if missing := sorted({k for part in keys for k in part} - set(everything.exams["exam"])):
        raise NotFoundError(
            f"{counted(len(missing), 'exam')} not in the lake, such as {missing[0]}",
            expected="the exams of the lake that was split",
            where=str(file),
        )
    sets = [
        everything.of_exams(part, f"{name} set of {file.name}")
        for name, part in zip(SPLITS, keys, strict=True)
    ]
    return _check_sets(CohortSplit(*sets), str(file))
