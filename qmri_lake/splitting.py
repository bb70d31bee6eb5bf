"""Training, validation and test cohorts: by patient, balanced, the same for the same seed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.splits import SPLITS, check_patients

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["CohortSplit", "read_split", "save_split", "split"]

_DRAWS = 500
"""Random divisions of the patients; the most balanced one is taken."""


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
) -> CohortSplit:
    """Divide a cohort into train, validation and test, each patient in one of them.

    Patients are shuffled and dealt out 500 times; the division whose sets differ least in the means
    of the columns of `balance` is taken (between-set variance over total variance, summed over
    columns). [assumption]

    Parameters
    ----------
    cohort : Cohort
        Exams (exam,); all exams of a patient go to one set.
    fractions : (train, validation, test)
        Shares of the exams, each above 0, of sum 1; default the paper's of 21,118 knees. [paper]
    balance : sequence of str
        Clinical columns, of numbers or one of two words, in which sets must not differ. [paper]
        A missing value counts as the cohort's mean. Empty: the first division.
    seed : int
        Another one makes another split. The order of exams in the cohort is no matter.

    Returns
    -------
    CohortSplit
        train, validation and test, none empty. Sizes are as near to the fractions as patients with
        several exams allow. The last row of each flow names fractions, balance and seed.

    Raises
    ------
    InputError
        No exam, fewer than three patients, fractions that are not three numbers above 0 of sum 1,
        or a column of `balance` without any value.
    QueryError
        No such column.
    """
    shares = _shares(fractions)
    if not len(cohort):
        raise InputError(
            "a cohort of 0 exams", expected="exams of at least 3 patients", where="split",
            todo="See cohort.flow() for what left them out.",
        )  # fmt: skip
    check_patients(cohort.exams, 3, "split")
    patients, inverse, sizes = np.unique(
        cohort.exams["patient"].to_numpy(), return_inverse=True, return_counts=True
    )
    sums = _standardised_sums(cohort, balance, inverse, len(patients))
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(patients), int), np.inf
    for _ in range(_DRAWS if balance else 1):
        places = _deal(rng.permutation(len(patients)), sizes, shares)
        exams = np.bincount(places, sizes, len(SPLITS))
        cost = sum(float((np.bincount(places, s, len(SPLITS)) ** 2 / exams).sum()) for s in sums)
        if cost < least:
            best, least = places, cost
    told = f"{'/'.join(f'{s:g}' for s in fractions)} by patient"
    told += f", balanced in {', '.join(balance)}" if balance else ""
    sets = [
        cohort._keep(best[inverse] == k, f"{name} set: {told}, seed {seed}", "in another set")
        for k, name in enumerate(SPLITS)
    ]
    return _apart(CohortSplit(*sets), "split")


def _shares(fractions: Sequence[float]) -> NDArray[np.float64]:
    shares = np.asarray(fractions, float)
    good = shares.shape == (len(SPLITS),) and bool((np.isfinite(shares) & (shares > 0)).all())
    if not good or abs(shares.sum() - 1) > 1e-6:
        total = f" of sum {shares.sum():g}" if good else ""
        raise InputError(
            f"fractions {tuple(fractions)}{total}",
            expected="three numbers above 0 of sum 1: train, validation, test", where="split",
            todo="Give shares such as (0.6, 0.12, 0.28).",
        )  # fmt: skip
    return shares


def _standardised_sums(
    cohort: Cohort, balance: Sequence[str], inverse: NDArray[np.intp], patients: int
) -> list[NDArray[np.float64]]:
    """Return, a column, the sum of standardised values over the exams of each patient."""
    sums: list[NDArray[np.float64]] = []
    table = cohort.table(list(balance)) if balance else None
    for name in balance:
        assert table is not None
        values = _numbers(table[name], name)
        if np.isnan(values).all():
            raise InputError(
                f"no exam has a value of {name!r}", expected="a column with values",
                where="split: balance", todo="Ingest the clinical tables, or leave it out.",
            )  # fmt: skip
        spread = np.nanstd(values)
        z = np.nan_to_num((values - np.nanmean(values)) / (spread if spread > 0 else 1.0))
        sums.append(np.bincount(inverse, z, patients).astype(np.float64))
    return sums


def _numbers(column: pd.Series[Any], name: str) -> NDArray[np.float64]:
    """Return a column as numbers, one of two words as 0 and 1."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    words = sorted(column.dropna().unique().tolist())
    if len(words) > 2:
        raise InputError(
            f"column {name!r} of {len(words)} words", expected="numbers, or one of two words",
            where="split: balance",
        )  # fmt: skip
    return column.map({word: float(k) for k, word in enumerate(words)}).to_numpy(
        dtype=np.float64, na_value=np.nan
    )


def _deal(
    order: NDArray[np.intp], sizes: NDArray[np.intp], shares: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return each patient's place: one patient to each set, then in turn what is still wanted."""
    places = np.empty(len(order), int)
    first, rest = order[: len(shares)], order[len(shares) :]
    places[first] = np.arange(len(shares))
    if rest.size:
        wanted = np.clip(shares * sizes.sum() - sizes[first], 0, None)
        ends = np.cumsum(wanted) / wanted.sum()
        middles = (np.cumsum(sizes[rest]) - sizes[rest] / 2) / sizes[rest].sum()
        places[rest] = np.searchsorted(ends[:-1], middles)
    return places


def _apart(sets: CohortSplit, where: str) -> CohortSplit:
    """Return the sets, if no patient is in two of them and none is empty."""
    seen: dict[int, str] = {}
    for name, part in zip(SPLITS, sets, strict=True):
        if not len(part):
            raise InputError(f"an empty {name} set", expected="at least 1 exam", where=where)
        for patient in np.unique(part.exams["patient"]).tolist():
            if patient in seen:
                raise InputError(
                    f"patient {patient} in {seen[patient]} and in {name}",
                    expected="each patient in one set", where=where,
                    todo="Split again by patient.",
                )  # fmt: skip
            seen[patient] = name
    return sets


def save_split(sets: Sequence[Cohort], path: str | os.PathLike[str]) -> Path:
    """Write a split beside the models made with it: exam keys by set, and the lake's snapshot.

    Parameters
    ----------
    sets : (train, validation, test)
        As `split` returns them.
    path : path
        A JSON file; its folder is made.

    Raises
    ------
    InputError
        A patient in two sets, or an empty set.
    """
    sets = _apart(CohortSplit(*sets), "save_split")
    record = {
        "snapshot": sets.train.lake.snapshot,
        "rule": sets.train.rows_of_flow[-1].condition,
        **{n: c.exams["exam"].tolist() for n, c in zip(SPLITS, sets, strict=True)},
    }
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(file)
    return file


def read_split(lake: Lake, path: str | os.PathLike[str]) -> CohortSplit:
    """Read a split that `save_split` wrote; exams appended to the lake since are in no set.

    Raises
    ------
    NotFoundError
        No such file, or exams that the lake lacks.
    InputError
        A file that is no split, or a patient in two sets.
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
            expected=f"JSON with {', '.join(SPLITS)}", where=str(file),
            reason=Reason.UNREADABLE_FILE,
        ) from None  # fmt: skip
    everything = lake.cohort()
    if missing := sorted({k for part in keys for k in part} - set(everything.exams["exam"])):
        raise NotFoundError(
            f"{len(missing)} exams that the lake lacks, such as {missing[0]}",
            expected="the lake that was split", where=str(file),
        )  # fmt: skip
    sets = [
        everything.of_exams(part, f"{name} set of {file.name}")
        for name, part in zip(SPLITS, keys, strict=True)
    ]
    return _apart(CohortSplit(*sets), str(file))
