"""What DL-guided thickness adds to that of compartments, beside the paper's p, as a table."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from qmri_lake.diagnosis.explained import GUIDED_TERM
from qmri_lake.errors import InputError, NotFoundError, Reason, did_you_mean
from qmri_lake.report.latex import escape_tex
from qmri_lake.report.maps import ORDER
from qmri_lake.report.published import CITATION, PAIN_P
from qmri_lake.statistics.association import NestedModels
from qmri_lake.surface.regions import REGIONS

__all__ = ["AssociationTable", "association_table"]

_NONE = "\N{EN DASH}"
_HEAD = (
    "Bone", "Cases / controls", "Left out", "M0", "Odds ratio (95 %)", "Chi-squared (df)", "p",
    "Paper's p",
)  # fmt: skip


@dataclass(frozen=True)
class AssociationTable:
    """Nested models of a lake, a row a bone, with the paper's p."""

    caption: str
    numbers: pd.DataFrame
    """A row a bone: bone; cases, controls, left_out; m0, its terms in words; odds_ratio of
    DL-guided thickness per SD, low, high; statistic, df, p; paper, its p, NaN where there is none.
    """
    test: str
    """Of p."""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know, a sentence each."""
        found = [
            f"p of M1, which is M0 with DL-guided thickness, against M0: {self.test}.",
            "Odds ratio per standard deviation of DL-guided thickness, in M1.",
        ]
        terms = dict.fromkeys(term for m0 in self.numbers["m0"].dropna() for term in m0.split(", "))
        known = [f"{name} {REGIONS[name].partition(':')[0]}" for name in terms if name in REGIONS]
        found.append(f"Mean thickness in M0: {', '.join(known)}.")
        if self.numbers["left_out"].any():
            found.append("Left out: exams without a value in some column, such as a CAM of 0.")
        lacking = [str(b) for b in self.numbers["bone"][self.numbers["paper"].isna()]]
        paper = f"Paper: {CITATION}"
        found.append(f"{paper}, which prints no {', '.join(lacking)}." if lacking else f"{paper}.")
        if self.numbers["p"].isna().any():
            found.append(f"{_NONE} No result.")
        return found

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
        """Return a ``<table>``; styles are inside."""
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
        """Return a ``table*`` that needs the package booktabs only."""
        lines = [
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{escape_tex(self.caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(_HEAD)}}}",
            r"\toprule",
            rf"{' & '.join(escape_tex(name) for name in _HEAD)} \\",
            r"\midrule",
        ]
        lines += [
            rf"{' & '.join(cell.replace(_NONE, '--') for cell in row)} \\"
            for row in self._rows(_power_of_latex)
        ]
        notes = " ".join(escape_tex(note) for note in self.notes)
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}",
                          rf"\par\smallskip\raggedright {notes}", r"\end{table*}"])  # fmt: skip

    def _rows(self, power: Callable[[str, int], str]) -> list[list[str]]:
        """Return the cells of each row; `power` writes a mantissa times a power of ten."""
        rows = []
        for row in self.numbers.to_dict("records"):
            paper = _p(row["paper"], power)
            if math.isnan(row["p"]):
                rows.append([row["bone"], *[_NONE] * 6, paper])
                continue
            rows.append(
                [
                    row["bone"],
                    f"{row['cases']:,.0f} / {row['controls']:,.0f}",
                    f"{row['left_out']:,.0f}",
                    row["m0"],
                    f"{row['odds_ratio']:.2f} ({row['low']:.2f}{_NONE}{row['high']:.2f})",
                    f"{row['statistic']:.1f} ({row['df']:.0f})",
                    _p(row["p"], power),
                    paper,
                ]
            )
        return rows


def association_table(
    models: Mapping[str, NestedModels], *, outcome: str = "chronic pain", exams: str = ""
) -> AssociationTable:
    """Lay out what DL-guided thickness adds, bone by bone.

    Parameters
    ----------
    models : mapping of bone to NestedModels
        Of `qmri_lake.diagnosis.thickness_models`: all by the same test. A bone that the paper has
        and that is not there shows as a dash.
    outcome : str
        In words, for the caption.
    exams : str, optional
        Likewise, such as "168 test patients, one knee each, synthetic".

    Returns
    -------
    AssociationTable
        Its `text`, `html` and `latex` say the same.

    Raises
    ------
    NotFoundError
        An unknown bone; models without DL-guided thickness.
    InputError
        No models, or models of different tests.
    """
    tests = {found.test for found in models.values()}
    if len(tests) != 1:
        raise InputError(
            f"{len(models)} models, of {len(tests)} tests", expected="some, of one test",
            where="association_table", reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    for bone, found in models.items():
        if bone not in ORDER or GUIDED_TERM not in found.m1.index:
            raise NotFoundError(
                f"no {GUIDED_TERM} in the model of the {bone}" if bone in ORDER
                else f"bone {bone!r}",
                expected=f"models of thickness_models for {', '.join(ORDER)}",
                where="association_table", todo=did_you_mean(bone, ORDER),
            )  # fmt: skip
    rows = [_numbers(bone, models.get(bone)) for bone in ORDER if bone in models or bone in PAIN_P]
    (test,) = tests
    caption = f"DL-guided cartilage thickness and {outcome}, beyond compartments"
    return AssociationTable(f"{caption}{f': {exams}' if exams else ''}.", pd.DataFrame(rows), test)


def _numbers(bone: str, found: NestedModels | None) -> dict[str, object]:
    row: dict[str, object] = {"bone": bone, "paper": PAIN_P.get(bone, math.nan)}
    if found is None:
        return row | {"p": math.nan, "left_out": 0}
    guided = found.m1.loc[GUIDED_TERM]
    return row | {
        "cases": found.cases, "controls": found.controls, "left_out": found.left_out,
        "m0": ", ".join(str(term) for term in found.m0.index if term != "constant"),
        "odds_ratio": guided["odds_ratio"], "low": guided["low"], "high": guided["high"],
        "statistic": found.statistic, "df": found.df, "p": found.p,
    }  # fmt: skip


def _p(value: float, power: Callable[[str, int], str]) -> str:
    """Write a p: three digits, or a power of ten below 0.001."""
    if math.isnan(value):
        return _NONE
    if value >= 0.001:
        return f"{value:.3f}"
    if value == 0:  # smaller than what a float can hold
        return power("< 1.0", -307)
    mantissa, exponent = f"{value:.1e}".split("e")
    return power(mantissa, int(exponent))


def _power_of_text(mantissa: str, exponent: int) -> str:
    return f"{mantissa}e{exponent}"


def _power_of_html(mantissa: str, exponent: int) -> str:
    return f"{html.escape(mantissa)}&#160;\N{MULTIPLICATION SIGN}&#160;10<sup>{exponent}</sup>"


def _power_of_latex(mantissa: str, exponent: int) -> str:
    return rf"${mantissa}\times10^{{{exponent}}}$"
