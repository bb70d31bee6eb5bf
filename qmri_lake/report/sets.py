"""Table 1: who is in the sets of bone segmentation and of OA, and whether they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qmri_lake.diagnosis.labels import label_oa
from qmri_lake.errors import InputError
from qmri_lake.report.latex import tabular
from qmri_lake.report.published import OA_EXAMS, SPLITS
from qmri_lake.segmentation.splits import SPLITS as NAMES
from qmri_lake.statistics.balance import one_way_manova, pearson_chi2

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort

__all__ = ["Table1", "table_1"]

_COLUMNS = ["age", "bmi", "sex"]


@dataclass(frozen=True, eq=False)
class Table1:
    """Table 1 as numbers, text, HTML and LaTeX.

    ``counts``: one row a part, group and set: exams, patients, age_mean, age_sd [years], bmi_mean,
    bmi_sd [kg m-2], women [%]. ``tests``: one row a part and group: chi2, chi2_p (sex), wilks,
    manova_p (age, BMI), why (there is none). NaN where there is no value.
    """

    counts: pd.DataFrame
    tests: pd.DataFrame

    def shown(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both tables as words, the paper's numbers in a column of their own."""
        c, t = self.counts, self.tests
        counts = pd.DataFrame(
            {
                "part": c["part"], "group": c["group"], "set": c["set"],
                "exams": [f"{n:,}" for n in c["exams"]],
                "patients": [f"{n:,}" for n in c["patients"]],
                "age": [_mean(m, s) for m, s in zip(c["age_mean"], c["age_sd"], strict=True)],
                "BMI": [_mean(m, s) for m, s in zip(c["bmi_mean"], c["bmi_sd"], strict=True)],
                "women": ["-" if np.isnan(w) else f"{w:.0f} %" for w in c["women"]],
                "paper": [
                    _paper(*key) for key in zip(c["part"], c["group"], c["set"], strict=True)
                ],
            }
        )  # fmt: skip
        tests = pd.DataFrame(
            {
                "part": t["part"], "group": t["group"],
                "sex: chi2": [_number(v, ".2f") for v in t["chi2"]],
                "sex: p": [_number(v, ".3f") for v in t["chi2_p"]],
                "age, BMI: Wilks": [_number(v, ".4f") for v in t["wilks"]],
                "age, BMI: p": [_number(v, ".3f") for v in t["manova_p"]],
            }
        )  # fmt: skip
        if t["why"].any():
            tests["why not"] = t["why"]
        return counts, tests

    def text(self) -> str:
        """Lines of plain text."""
        return "\n\n".join(part.to_string(index=False) for part in self.shown())

    def html(self) -> str:
        """Two HTML tables, without a page around them."""
        return "\n".join(part.to_html(index=False, border=0) for part in self.shown())

    def latex(self) -> str:
        """Two LaTeX tabulars, for booktabs."""
        return "\n".join(tabular(part) for part in self.shown())

    __str__ = text


def table_1(oa: Sequence[Cohort], bone: Sequence[Cohort] | None = None) -> Table1:
    """Return Table 1 of a split.

    Parameters
    ----------
    oa : (train, validation, test)
        As `qmri_lake.split` returns them. Cases have KL 2 or more; exams without a label count
        among all only. [paper]
    bone : (train, validation, test), optional
        Cohorts of the bone networks.

    Returns
    -------
    Table1
        Tests take each exam as one observation, as if visits of a patient were independent, so
        their p is too small where patients have several. [assumption]

    Raises
    ------
    InputError
        Not three cohorts, or one of no exam.
    """
    counts: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    for part, sets in (("bone segmentation", bone), ("OA", oa)):
        if sets is None:
            continue
        for group, frame in _groups(part, sets).items():
            counts += [{"part": part, "group": group, **_described(frame, n)} for n in NAMES]
            sex = pearson_chi2(frame["sex"], frame["set"])
            means = one_way_manova(frame[["age", "bmi"]], frame["set"])
            tests.append(
                {
                    "part": part, "group": group, "chi2": sex.statistic, "chi2_p": sex.p,
                    "wilks": means.statistic, "manova_p": means.p,
                    "why": "; ".join(dict.fromkeys(w for w in (sex.why, means.why) if w)),
                }
            )  # fmt: skip
    return Table1(pd.DataFrame(counts), pd.DataFrame(tests))


def _groups(part: str, sets: Sequence[Cohort]) -> dict[str, pd.DataFrame]:
    if len(sets) != len(NAMES):
        raise InputError(f"{len(sets)} cohorts", expected=", ".join(NAMES), where="table_1")
    frames = []
    for name, cohort in zip(NAMES, sets, strict=True):
        if not len(cohort):
            raise InputError(f"a {name} cohort of 0 exams", expected="at least 1",
                             where=f"table_1: {part}")  # fmt: skip
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


def _described(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    mine = frame[frame["set"] == name]
    sex = mine["sex"].dropna()
    return {
        "set": name, "exams": len(mine), "patients": mine["patient"].nunique(),
        "age_mean": mine["age"].mean(), "age_sd": mine["age"].std(),
        "bmi_mean": mine["bmi"].mean(), "bmi_sd": mine["bmi"].std(),
        "women": 100 * float((sex == "female").mean()) if len(sex) else np.nan,
    }  # fmt: skip


def _mean(mean: float, sd: float) -> str:
    return "-" if np.isnan(mean) else f"{mean:.1f} ({_number(sd, '.1f')})"


def _number(value: float, form: str) -> str:
    if np.isnan(value):
        return "-"
    return "< 0.001" if form == ".3f" and value < 0.001 else format(value, form)


def _paper(part: str, group: str, name: str) -> str:
    """Return what the paper printed of this row, where it did."""
    if group != "all":
        return ""
    if part == "OA":
        return f"{OA_EXAMS[name]:,} exams"
    p = SPLITS[name]
    women = 100 * p.women / (p.men + p.women)
    return f"{p.volumes} exams; {_mean(*p.age)}; {_mean(*p.bmi)}; {women:.0f} %"
