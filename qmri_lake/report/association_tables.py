"""Tabulate tests of DL-guided thickness in addition to the mean thickness of compartments."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from qmri_lake.core.latex import escape_tex
from qmri_lake.core.text import did_you_mean
from qmri_lake.diagnosis.evaluation.thickness_models import GUIDED_TERM
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.published import CITATION, PAIN_P
from qmri_lake.report.map_atlases import BONE_ORDER
from qmri_lake.statistics.association import NestedModels
from qmri_lake.statistics.interval_limits import NO_INTERVAL
from qmri_lake.surface.regions import REGIONS

__all__ = ["AssociationTable", "association_table"]

_NO_VALUE = "\N{EN DASH}"
_HEAD = (
    "Bone",
    "Cases / controls",
    "Excluded",
    "M0",
    "Odds ratio (95 % CI)",
    "Chi-squared (df)",
    "p",
    "Paper's p",
)


@dataclass(frozen=True)
class AssociationTable:
    """Table of tests of nested models, one row per bone, with the p value of the paper."""

    caption: str
    numbers: pd.DataFrame
    """One row per bone. Columns: bone; cases, controls and left_out, the numbers of exams; m0, the
    terms of M0; odds_ratio of DL-guided thickness per SD, and its 95 % interval from low to high;
    statistic, df and p of the test; paper, the published p, NaN if there is none.
    """
    test: str
    """Name of the test from which p is computed."""

    @property
    def notes(self) -> list[str]:
        """Notes below the table, one sentence each."""
        notes = [
            f"p: M1 against M0, {self.test}. M1 is M0 plus DL-guided thickness.",
            "Odds ratio: per standard deviation of DL-guided thickness, in M1.",
        ]
        terms = dict.fromkeys(term for m0 in self.numbers["m0"].dropna() for term in m0.split(", "))
        known = [f"{name} ({REGIONS[name].partition(':')[0]})" for name in terms if name in REGIONS]
        notes.append(f"M0: mean thickness of {', '.join(known)}.")
        if self.numbers["left_out"].any():
            notes.append("Excluded: exams with a missing value, for example a CAM that is 0.")
        missing = [str(b) for b in self.numbers["bone"][self.numbers["paper"].isna()]]
        paper = f"Paper: {CITATION}"
        notes.append(f"{paper} (no value for {', '.join(missing)})." if missing else f"{paper}.")
        if (self.numbers["p"].notna() & self.numbers["low"].isna()).any():
            notes.append(f"Odds ratio without an interval: {NO_INTERVAL}.")
        if self.numbers["p"].isna().any():
            notes.append(f"{_NO_VALUE}: not available.")
        return notes

    def text(self) -> str:
        """Return the table for a terminal."""
        rows = [list(_HEAD), *self._rows(_power_of_text)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self.caption, rule, lines[0], rule, *lines[1:], rule, *self.notes])

    def html(self) -> str:
        """Return a ``<table>`` with inline styles."""
        head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in _HEAD)
        lines = [
            "<table class='association' style='white-space:nowrap'>",
            "<caption style='text-align:left;white-space:normal'>"
            f"{html.escape(self.caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
        ]
        for bone, *cells in self._rows(_power_of_html):
            rest = "".join(f"<td>{cell}</td>" for cell in cells)
            lines.append(f"<tr><th scope='row'>{bone}</th>{rest}</tr>")
        notes = " ".join(html.escape(note) for note in self.notes)
        lines += [
            "</tbody>",
            f"<tfoot><tr><td colspan='{len(_HEAD)}' style='white-space:normal'>{notes}</td></tr>"
            "</tfoot>",
            "</table>",
        ]
        return "\n".join(lines)

    def latex(self) -> str:
        """Return a ``table*``, which requires only the package booktabs."""
        lines = [
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{escape_tex(self.caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(_HEAD)}}}",
            r"\toprule",
            rf"{' & '.join(escape_tex(name) for name in _HEAD)} \\",
            r"\midrule",
        ]
        for row in self._rows(_power_of_latex):
            words, powers = row[:-2], row[-2:]  # powers of ten are already in LaTeX
            cells = [*map(escape_tex, words), *(cell.replace(_NO_VALUE, "--") for cell in powers)]
            lines.append(rf"{' & '.join(cells)} \\")
        notes = " ".join(escape_tex(note) for note in self.notes)
        return "\n".join(
            [
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                rf"\par\smallskip\raggedright {notes}",
                r"\end{table*}",
            ]
        )

    def _rows(self, power: Callable[[str, int], str]) -> list[list[str]]:
        """Return the cells of each row; `power` formats a mantissa and a power of ten."""
        rows = []
        for row in self.numbers.to_dict("records"):
            paper = _format_p(row["paper"], power)
            if math.isnan(row["p"]):
                rows.append([row["bone"], *[_NO_VALUE] * 6, paper])
                continue
            rows.append(
                [
                    row["bone"],
                    f"{row['cases']:,.0f} / {row['controls']:,.0f}",
                    f"{row['left_out']:,.0f}",
                    row["m0"],
                    _format_odds(row["odds_ratio"], row["low"], row["high"]),
                    f"{row['statistic']:.1f} ({row['df']:.0f})",
                    _format_p(row["p"], power),
                    paper,
                ]
            )
        return rows


def association_table(
    models: Mapping[str, NestedModels], *, outcome: str = "chronic pain", exams: str = ""
) -> AssociationTable:
    """Tabulate the association of DL-guided thickness with an outcome, one row per bone.

    Parameters
    ----------
    models : mapping of bone to NestedModels
        Models returned by `qmri_lake.diagnosis.thickness_models`, all with the same test. If a bone
        that the paper reports is missing, the table shows dashes.
    outcome : str
        Name of the outcome, for the caption.
    exams : str, optional
        Description of the exams, for the caption, such as "168 test patients, one knee each".

    Returns
    -------
    AssociationTable
        The table, with methods `text`, `html` and `latex`.

    Raises
    ------
    NotFoundError
        If a bone is unknown, or a model has no DL-guided thickness.
    InputError
        If there are no models, or models with different tests.
    """
    tests = {nested.test for nested in models.values()}
    if len(tests) != 1:
        raise InputError(
            f"{len(models)} models of {len(tests)} tests",
            expected="at least one model, and the same statistical test for all",
            where="association_table",
            reason=Reason.UNREADABLE_VALUE,
        )
    for bone, nested in models.items():
        if bone not in BONE_ORDER or GUIDED_TERM not in nested.m1.index:
            raise NotFoundError(
                f"no {GUIDED_TERM} in the model of the {bone}"
                if bone in BONE_ORDER
                else f"unknown bone {bone!r}",
                expected=f"models of thickness_models for {', '.join(BONE_ORDER)}",
                where="association_table",
                todo=did_you_mean(bone, BONE_ORDER),
            )
    rows = [_row(bone, models.get(bone)) for bone in BONE_ORDER if bone in models or bone in PAIN_P]
    (test,) = tests
    caption = f"Association of DL-guided cartilage thickness with {outcome}"
    return AssociationTable(f"{caption}{f': {exams}' if exams else ''}.", pd.DataFrame(rows), test)


def _row(bone: str, nested: NestedModels | None) -> dict[str, object]:
    row: dict[str, object] = {"bone": bone, "paper": PAIN_P.get(bone, math.nan)}
    if nested is None:
        return row | {"p": math.nan, "left_out": 0}
    guided = nested.m1.loc[GUIDED_TERM]
    return row | {
        "cases": nested.cases,
        "controls": nested.controls,
        "left_out": nested.left_out,
        "m0": ", ".join(str(term) for term in nested.m0.index if term != "constant"),
        "odds_ratio": guided["odds_ratio"],
        "low": guided["low"],
        "high": guided["high"],
        "statistic": nested.statistic,
        "df": nested.df,
        "p": nested.p,
    }


def _format_odds(ratio: float, low: float, high: float) -> str:
    interval = "" if math.isnan(low) else f" ({low:.2f}{_NO_VALUE}{high:.2f})"
    return f"{ratio:.2f}{interval}"


def _format_p(value: float, power: Callable[[str, int], str]) -> str:
    """Format a p value: three decimals, or a power of ten below 0.001."""
    if math.isnan(value):
        return _NO_VALUE
    if value >= 0.001:
        return f"{value:.3f}"
    if value == 0:  # underflow
        return power("< 1.0", -307)
    mantissa, exponent = f"{value:.1e}".split("e")
    return power(mantissa, int(exponent))


def _power_of_text(mantissa: str, exponent: int) -> str:
    return f"{mantissa}e{exponent}"


def _power_of_html(mantissa: str, exponent: int) -> str:
    return f"{html.escape(mantissa)}&#160;\N{MULTIPLICATION SIGN}&#160;10<sup>{exponent}</sup>"


def _power_of_latex(mantissa: str, exponent: int) -> str:
    return rf"${mantissa}\times10^{{{exponent}}}$"
