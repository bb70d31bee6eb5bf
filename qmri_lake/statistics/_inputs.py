"""Check the labels, scores and patients that are passed to the functions of this package."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, Reason

__all__ = ["labels_and_scores", "patient_codes"]


def labels_and_scores(
    label: ArrayLike, *scores: ArrayLike, where: str
) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Return labels as booleans and scores as floats; raise an error if they are invalid."""

    def wrong(found: str, expected: str, todo: str = "") -> InputError:
        return InputError(
            found, expected=expected, where=where, todo=todo, reason=Reason.UNREADABLE_VALUE
        )

    unknown = pd.isna(np.asarray(label, object))
    if unknown.any():
        raise wrong(
            f"{int(unknown.sum())} exams without a label",
            "0 or 1",
            "Exclude them first, and report their number.",
        )
    given = np.asarray(label)
    if given.ndim != 1:
        raise wrong(f"labels with {given.ndim} axes", "one axis (exam,)")
    odd = ~np.isin(given, (0, 1))
    if odd.any():
        names = ", ".join(sorted({str(v) for v in given[odd]})[:3])
        raise wrong(f"{int(odd.sum())} labels of {names}", "0 or 1")
    numbers = given.astype(np.float64)
    if numbers.size == 0:
        raise wrong("no exam", "cases and controls")
    if numbers.min() == numbers.max():
        name = "cases" if numbers[0] else "controls"
        raise wrong(
            f"only {name}, {numbers.size} of them",
            "cases and controls",
            "Choose a cohort with both classes.",
        )
    checked = []
    for score in scores:
        raw = np.asarray(score)
        if raw.dtype.kind not in "biufO":
            raise wrong(f"scores of type {raw.dtype}", "numbers")
        values = raw.astype(np.float64)
        if values.shape != numbers.shape:
            raise wrong(f"scores of shape {values.shape}", f"{numbers.shape}, as the labels")
        lacking = int((~np.isfinite(values)).sum())
        if lacking:
            raise wrong(
                f"{lacking} of {values.size} scores are not finite",
                "finite scores",
                "Exclude exams without a prediction, and report their number.",
            )
        checked.append(values)
    return numbers == 1, checked


def patient_codes(
    patient: ArrayLike | None, exams: int, where: str
) -> tuple[NDArray[np.intp], int]:
    """Return integer codes of patients, from 0, and the number of patients.

    By default each exam is one patient.
    """
    if patient is None:
        return np.arange(exams), exams
    given = np.asarray(patient)
    if given.shape != (exams,):
        raise InputError(
            f"patients of shape {given.shape}",
            expected=f"({exams},), as the labels",
            where=where,
            reason=Reason.UNREADABLE_VALUE,
        )
    if pd.isna(given).any():
        raise InputError(
            f"{int(pd.isna(given).sum())} exams without a patient",
            expected="a patient for each exam",
            where=where,
            reason=Reason.UNREADABLE_VALUE,
        )
    codes, names = pd.factorize(given)
    return codes, len(names)
