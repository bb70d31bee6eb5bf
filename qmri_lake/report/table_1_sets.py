"""Table 1: characteristics of the training, validation and test sets, and tests of balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.latex import tabular
from qmri_lake.diagnosis.labels import label_oa
from qmri_lake.errors import InputError
from qmri_lake.lake.split_by_patient import SPLITS as NAMES
from qmri_lake.published import OA_EXAMS, SPLITS
from qmri_lake.statistics.balance import one_way_manova, pearson_chi2

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort

__all__ = ["Table1", "table_1"]

_COLUMNS = ["age", "bmi", "sex"]


@dataclass(frozen=True, eq=False)
class Table1:
    """Table 1 as numbers, text, HTML and LaTeX.

    ``counts`` has one row per part, group and set, with columns exams, patients, age_mean and
    age_sd [years], bmi_mean and bmi_sd [kg m-2], and women [%]. ``tests`` has one row per part and
    group, with columns chi2 and chi2_p (sex), wilks and manova_p (age and BMI), and why (reason for
    a missing test). Missing values are NaN.
    """

    counts: pd.DataFrame
    tests: pd.DataFrame

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return both tables with cells as text, and the published values in a separate column."""
        c, t = self.counts, self.tests
        counts = pd.DataFrame(
            {
                "part": c["part"],
                "group": c["group"],
                "set": c["set"],
                "exams": [f"{n:,}" for n in c["exams"]],
                "patients": [f"{n:,}" for n in c["patients"]],
                "age": [_mean(m, s) for m, s in zip(c["age_mean"], c["age_sd"], strict=True)],
                "BMI": [_mean(m, s) for m, s in zip(c["bmi_mean"], c["bmi_sd"], strict=True)],
                "women": ["-" if np.isnan(w) else f"{w:.0f} %" for w in c["women"]],
                "paper": [
                    _paper(*key) for key in zip(c["part"], c["group"], c["set"], strict=True)
                ],
            }
        )
        tests = pd.DataFrame(
            {
                "part": t["part"],
                "group": t["group"],
                "sex: chi-squared": [_number(v, ".2f") for v in t["chi2"]],
                "sex: p": [_number(v, ".3f") for v in t["chi2_p"]],
                "age, BMI: Wilks' lambda": [_number(v, ".4f") for v in t["wilks"]],
                "age, BMI: p": [_number(v, ".3f") for v in t["manova_p"]],
            }
        )
        if t["why"].any():
            tests["not available because"] = t["why"]
        return counts, tests

    def text(self) -> str:
        """Return both tables as plain text."""
        return "\n\n".join(frame.to_string(index=False) for frame in self.frames())

    def html(self) -> str:
        """Return both tables as HTML ``<table>`` elements."""
        return "\n".join(frame.to_html(index=False, border=0) for frame in self.frames())

    def latex(self) -> str:
        """Return both tables as LaTeX tabulars, which require booktabs."""
        return "\n".join(tabular(frame) for frame in self.frames())

    __str__ = text


def table_1(oa: Sequence[Cohort], bone: Sequence[Cohort] | None = None) -> Table1:
    """Return Table 1 of a split.

    Parameters
    ----------
    oa : (train, validation, test)
        Cohorts as returned by `qmri_lake.split`. Cases have KL 2 or more. Exams without a label are
        only in group ``all``. [paper]
    bone : (train, validation, test), optional
        Cohorts of the bone networks.

    Returns
    -------
    Table1
        Table 1. The tests treat each exam as an independent observation, although exams of the same
        patient are correlated. Therefore p is too small if patients have several exams.
        [assumption]

    Raises
    ------
    InputError
        If there are not three cohorts, or a cohort is empty.
    """
    counts: list[JsonObject] = []
    tests: list[JsonObject] = []
    for part, sets in (("bone segmentation", bone), ("OA", oa)):
        if sets is None:
            continue
        for group, frame in _groups(part, sets).items():
            counts += [{"part": part, "group": group, **_describe(frame, n)} for n in NAMES]
            sex = pearson_chi2(frame["sex"], frame["set"])
            means = one_way_manova(frame[["age", "bmi"]], frame["set"])
            tests.append(
                {
                    "part": part,
                    "group": group,
                    "chi2": sex.statistic,
                    "chi2_p": sex.p,
                    "wilks": means.statistic,
                    "manova_p": means.p,
                    "why": "; ".join(dict.fromkeys(w for w in (sex.why, means.why) if w)),
                }
            )
    return Table1(pd.DataFrame(counts), pd.DataFrame(tests))


def _groups(part: str, sets: Sequence[Cohort]) -> dict[str, pd.DataFrame]:
    if len(sets) != len(NAMES):
        raise InputError(f"{len(sets)} cohorts", expected=", ".join(NAMES), where="table_1")
    frames = []
    for name, cohort in zip(NAMES, sets, strict=True):
        if not len(cohort):
            raise InputError(
                f"empty {name} cohort", expected="at least 1 exam", where=f"table_1: {part}"
            )
        frame = cohort.table(["exam", "patient", *_COLUMNS])
        sex = frame["sex"].astype(object).where(frame["sex"].notna(), None)
        frame = frame.astype({"age": float, "bmi": float}).assign(set=name, sex=sex, oa=np.nan)
        if part == "OA":
            labelled = label_oa(cohort)
            known = pd.Series(labelled.label, labelled.cohort.exams["exam"])
            frame["oa"] = frame["exam"].map(known)
        frames.append(frame)
    every = pd.concat(frames, ignore_index=True)
    if part != "OA":
        return {"all": every}
    return {"cases": every[every["oa"] == 1], "controls": every[every["oa"] == 0], "all": every}


def _describe(frame: pd.DataFrame, name: str) -> JsonObject:
    rows = frame[frame["set"] == name]
    sex = rows["sex"].dropna()
    return {
        "set": name,
        "exams": len(rows),
        "patients": rows["patient"].nunique(),
        "age_mean": rows["age"].mean(),
        "age_sd": rows["age"].std(),
        "bmi_mean": rows["bmi"].mean(),
        "bmi_sd": rows["bmi"].std(),
        "women": 100 * float((sex == "female").mean()) if len(sex) else np.nan,
    }


def _mean(mean: float, sd: float) -> str:
    return "-" if np.isnan(mean) else f"{mean:.1f} ({_number(sd, '.1f')})"


def _number(value: float, form: str) -> str:
    if np.isnan(value):
        return "-"
    return "< 0.001" if form == ".3f" and value < 0.001 else format(value, form)


def _paper(part: str, group: str, name: str) -> str:
    """Return the published values of a row; "" if there are none."""
    if group != "all":
        return ""
    if part == "OA":
        return f"{OA_EXAMS[name]:,} exams"
    p = SPLITS[name]
    women = 100 * p.women / (p.men + p.women)
    return f"{p.volumes} exams; {_mean(*p.age)}; {_mean(*p.bmi)}; {women:.0f} %"
