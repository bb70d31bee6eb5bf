"""Who trains, who validates and who tests: exams divided by patient, in the paper's proportions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.errors import InputError

__all__ = ["SPLITS", "Split", "check_patients", "draw_members", "split_by_patient"]

Split = dict[str, list[str]]
"""Exam keys by name of the split."""

SPLITS = ("train", "validation", "test")

_TRIED = 8
"""Patients whose places are tried in all combinations, 3 ** 8, after the others were dealt out."""


def split_by_patient(
    exams: pd.DataFrame, fractions: Sequence[float] = (57, 15, 30), seed: int = 0
) -> Split:
    """Divide exams into train, validation and test, each patient in one of them.

    Parameters
    ----------
    exams : DataFrame
        Columns exam and patient, such as ``cohort.exams``. The order of its rows is no matter.
    fractions : (train, validation, test)
        Proportions, of any sum; default those of the 102 volumes of the bone networks. [paper]
    seed : int
        Another one makes another split.

    Returns
    -------
    dict of list of str
        Exam keys by `SPLITS`, in the order of `exams`. Sizes are as near to the proportions as the
        patients allow; none is empty.

    Raises
    ------
    InputError
        Fewer than three patients, or proportions that are not above 0.

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
    """Draw training and validation sets for each member of an ensemble, and one test set for all.

    Parameters
    ----------
    exams : DataFrame
        Columns exam and patient.
    members : int
        How many draws.
    seed : int
    test, train, validation, pool : int
        Of test + pool volumes; train and validation are drawn from the pool. Default: those of the
        cartilage networks [paper]; scaled to the exams that there are.

    Returns
    -------
    list of dict
        One a member, as `split_by_patient` returns; ``"test"`` is the same in all. No patient is
        in two splits of a member.

    Raises
    ------
    InputError
        Fewer than three patients, no member, or a pool that can't hold train and validation.
    """
    where = "draw_members"
    if members < 1 or train + validation > pool:
        raise InputError(
            f"{members} members" if members < 1 else f"a pool of {pool} for {train} + {validation}",
            expected="at least 1" if members < 1 else "at least their sum", where=where,
        )  # fmt: skip
    check_patients(exams, 3, where)
    tested = _divide(exams, (test, pool), np.random.default_rng([seed, 0]), where, (1, 2)) == 0
    rest = exams[~tested]
    fractions = (train, validation, pool - train - validation)
    drawn = []
    for member in range(members):
        rng = np.random.default_rng([seed, member + 1])
        places = _divide(rest, fractions[: 3 if fractions[2] else 2], rng, where, (1, 1, 0))
        drawn.append(
            {
                "train": _keys(rest, places == 0),
                "validation": _keys(rest, places == 1),
                "test": _keys(exams, tested),
            }
        )
    return drawn


def _keys(exams: pd.DataFrame, chosen: NDArray[np.bool_]) -> list[str]:
    return [str(key) for key in exams["exam"].to_numpy()[chosen]]


def check_patients(exams: pd.DataFrame, least: int, where: str) -> None:
    """Refuse exams of fewer patients than there are sets."""
    found = exams["patient"].nunique()
    if found < least:
        raise InputError(
            f"{found} patient{'s' * (found != 1)} in {len(exams)} exams",
            expected=f"at least {least}: no split may be empty, and no patient in two of them",
            where=where,
            todo="Choose more exams.",
        )


def _divide(
    exams: pd.DataFrame,
    fractions: Sequence[float],
    rng: np.random.Generator,
    where: str,
    least: Sequence[int] = (1, 1, 1),
) -> NDArray[np.intp]:
    """Return the place of each exam: one of the fractions, with at least so many patients in it."""
    shares = np.asarray(fractions, float)
    least = least[: len(shares)]
    if not (np.isfinite(shares) & (shares > 0)).all():
        raise InputError(f"proportions {tuple(fractions)}", expected="numbers above 0", where=where)
    check_patients(exams, sum(least), where)
    # By number, not by their order in the table: the split does not depend on it.
    patients, inverse, sizes = np.unique(
        exams["patient"].to_numpy(), return_inverse=True, return_counts=True
    )
    wanted = shares / shares.sum() * len(exams)
    places = np.empty(len(patients), int)
    order = rng.permutation(len(patients))
    filled, people = np.zeros(len(shares)), np.zeros(len(shares), int)
    dealt, tried = order[:-_TRIED], order[-_TRIED:]
    for p in dealt:
        # In proportion to what is still wanted, so that a split is not the first patients' alone.
        free = np.clip(wanted - filled - sizes[p] / 2, 1e-9, None)
        k = rng.choice(len(shares), p=free / free.sum())
        places[p] = k
        filled[k] += sizes[p]
        people[k] += 1
    options = np.array(list(product(range(len(shares)), repeat=len(tried))))
    options = options[rng.permutation(len(options))]
    chosen = options[:, :, None] == np.arange(len(shares))
    total = filled + (chosen * sizes[tried][None, :, None]).sum(axis=1)
    cost = ((total - wanted) ** 2).sum(axis=1)
    cost[(people + chosen.sum(axis=1) < np.array(least)).any(axis=1)] = np.inf
    places[tried] = options[cost.argmin()]
    return places[inverse]
