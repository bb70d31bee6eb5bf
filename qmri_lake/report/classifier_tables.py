"""Tables S2 and S3: what classifiers reach, beside the paper's, as text, HTML and LaTeX."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import pandas as pd

from qmri_lake.errors import InputError, NotFoundError, Reason, did_you_mean
from qmri_lake.fusion import STRATEGIES
from qmri_lake.report.latex import escape_tex
from qmri_lake.report.published import CITATION

__all__ = [
    "COLUMNS", "METRICS", "PREDICTORS", "TITLES", "ClassifierTable", "cell", "classifier_table",
    "published_classifiers",
]  # fmt: skip

COLUMNS = ("strategy", "predictor", "metric", "mean", "low", "high")
"""Of results: a row a number, fractions of 1."""

PREDICTORS: Mapping[str, str] = MappingProxyType(
    {
        "patella": "Patella",
        "tibia": "Tibia",
        "femur": "Femur",
        "tf": "Tibia + femur",
        "ptf": "All three",
    }
)
METRICS: Mapping[str, str] = MappingProxyType(
    {"sensitivity": "Sensitivity", "specificity": "Specificity", "auc": "AUC"}
)
TITLES = MappingProxyType(
    {
        "t2": "T2",
        "thickness": "Thickness",
        "bone_shape": "Bone shape",
        "bone_shape+thickness": "Bone shape + thickness",
        "thickness+t2": "Thickness + T2",
        "all": "All",
    }
)
_TASKS = MappingProxyType(
    {
        "oa": ("S2", "osteoarthritis, KL > 1 against KL < 2"),
        "pain": ("S3", "chronic pain"),
    }
)
_REPAIRED = "high repaired"
_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class ClassifierTable:
    """Table S2 or S3 of a lake, with the paper's figures."""

    number: str
    """S2 or S3."""
    caption: str
    numbers: pd.DataFrame
    """A row a cell: strategy, metric, predictor; mean, low, high, in percent, NaN where there is
    none; best, of its metric and column to the printed digit; paper, paper_low, paper_high and
    paper_best, NaN where the paper prints none; paper_repaired, where the upper end of its interval
    had lost a digit."""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know, a sentence each."""
        shown = self.numbers
        found = ["Percent, with the 95 % interval.",
                 "* Best strategy of its metric and column, ours and the paper's."]  # fmt: skip
        lines = f"Second lines: {CITATION}"
        printed = set(shown["predictor"][shown["paper"].notna()])
        lacking = [title.lower() for name, title in PREDICTORS.items() if name not in printed]
        if lacking:
            lines += f", which prints no {', '.join(lacking)}"
        found.append(f"{lines}.")
        if shown["paper_repaired"].any():
            found.append(
                "\N{DAGGER} Upper end without its first digit in the source; that digit is ours."
            )
        if shown["mean"].isna().any():
            found.append(f"{_NONE} No result.")
        return found

    def text(self) -> str:
        """Return the table for a terminal, about 140 columns wide."""
        rows = [["strategy", "metric", *PREDICTORS.values()]]
        for k, (strategy, metric, ours, paper) in enumerate(self._rows(lambda text, best: text)):
            first = k % len(METRICS) == 0
            rows.append([strategy if first else "", metric, *ours])
            rows.append(["", "paper", *paper])
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        block = 2 * len(METRICS)
        parts = [lines[0], *("\n".join(lines[k : k + block]) for k in range(1, len(lines), block))]
        return "\n".join([f"Table {self.number}. {self.caption}", rule,
                          f"\n{rule}\n".join(parts), rule, *self.notes])  # fmt: skip

    def html(self) -> str:
        """Return a ``<table>``, the paper's numbers small below each; styles are inside."""

        def emphasis(text: str, best: bool) -> str:
            return f"<b>{html.escape(text)}</b>" if best else html.escape(text)

        names = ("Strategy", "Metric", *PREDICTORS.values())
        head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in names)
        lines = [
            "<table class='classifiers' style='white-space:nowrap'>",
            f"<caption style='text-align:left;white-space:normal'><b>Table {self.number}.</b> "
            f"{html.escape(self.caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
        ]
        for k, (strategy, metric, ours, paper) in enumerate(self._rows(emphasis)):
            cells = "".join(
                f"<td>{mine}<br/><small style='color:#5c6b7a'>{theirs}</small></td>"
                for mine, theirs in zip(ours, paper, strict=True)
            )
            name = f"<th scope='rowgroup' rowspan='{len(METRICS)}'>{html.escape(strategy)}</th>"
            lines.append(
                f"<tr>{name if k % len(METRICS) == 0 else ''}<th scope='row'>{metric}<br/>"
                f"<small>paper</small></th>{cells}</tr>"
            )
        notes = " ".join(html.escape(note) for note in self.notes)
        width = len(PREDICTORS) + 2
        lines += [
            "</tbody>",
            "<tfoot><tr>"
            f"<td colspan='{width}' style='white-space:normal'>{notes}</td></tr></tfoot>",
            "</table>",
        ]
        return "\n".join(lines)

    def latex(self) -> str:
        r"""Return a ``table*`` that needs the package booktabs only."""

        def emphasis(text: str, best: bool) -> str:
            return rf"\textbf{{{escape_tex(text)}}}" if best else escape_tex(text)

        names = " & ".join(
            escape_tex(name) for name in ("Strategy", "Metric", *PREDICTORS.values())
        )
        lines = [
            r"\begin{table*}",
            r"\centering\scriptsize",
            rf"\renewcommand{{\thetable}}{{{self.number}}}",
            rf"\caption{{{escape_tex(self.caption)}}}",
            rf"\begin{{tabular}}{{ll{'l' * len(PREDICTORS)}}}",
            r"\toprule",
            rf"{names} \\",
        ]
        for k, (strategy, metric, ours, paper) in enumerate(self._rows(emphasis)):
            first = k % len(METRICS) == 0
            if first:
                lines.append(r"\midrule")
            lines.append(
                rf"{escape_tex(strategy) if first else ''} & {metric} & {' & '.join(ours)} \\"
            )
            lines.append(rf" & \quad paper & {' & '.join(paper)} \\")
        notes = " ".join(escape_tex(note) for note in self.notes)
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}",
                          rf"\par\smallskip\raggedright {notes}", r"\end{table*}"])  # fmt: skip

    def _rows(
        self, emphasis: Callable[[str, bool], str]
    ) -> list[tuple[str, str, list[str], list[str]]]:
        """Return strategy, metric, our cells and the paper's cells of each row."""
        rows = []
        for name, title in TITLES.items():
            for metric, word in METRICS.items():
                both = self.numbers[
                    (self.numbers["strategy"] == name) & (self.numbers["metric"] == metric)
                ].set_index("predictor")
                ours, paper = [], []
                for predictor in PREDICTORS:
                    row: dict[Any, Any] = both.loc[predictor].to_dict()
                    best, theirs = bool(row["best"]), bool(row["paper_best"])
                    text = cell(row["mean"], row["low"], row["high"])
                    ours.append(emphasis(text + "*" * best, best))
                    text = cell(row["paper"], row["paper_low"], row["paper_high"])
                    repaired = "\N{DAGGER}" * bool(row["paper_repaired"])
                    paper.append(emphasis(text + repaired + "*" * theirs, theirs))
                rows.append((title, word, ours, paper))
        return rows


@functools.cache
def _published() -> pd.DataFrame:
    with (files("qmri_lake.report") / "published_classifiers.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


def published_classifiers(task: str | None = None) -> pd.DataFrame:
    """Return the figures of Tables S2 and S3 of the paper.

    Parameters
    ----------
    task : {"oa", "pain"}, optional
        Default both.

    Returns
    -------
    DataFrame
        table, task, strategy, predictor, metric; value, low and high in percent, mean and 95 %
        interval over 100 bootstraps [paper]; note, "high repaired" where the printed end of the
        interval had lost its first digit. There is no predictor tf.

    Raises
    ------
    NotFoundError
        No such task.

    Examples
    --------
    >>> from qmri_lake.report import published_classifiers
    >>> oa = published_classifiers("oa").query("metric == 'auc' and predictor == 'ptf'")
    >>> print(oa[["strategy", "value", "low", "high"]].to_string(index=False))
                strategy  value  low  high
                      t2   89.9 89.8  90.0
               thickness   90.6 90.5  90.7
              bone_shape   89.9 89.8  89.9
    bone_shape+thickness   91.7 91.6  91.8
            thickness+t2   89.5 89.4  89.6
                     all   91.7 91.6  91.8
    """
    table = _published()
    if task is None:
        return table.copy()
    _known([task], _TASKS, "task")
    return table[table["task"] == task].reset_index(drop=True)


def classifier_table(results: pd.DataFrame, task: str, *, exams: str = "") -> ClassifierTable:
    """Lay out Table S2 (OA) or S3 (chronic pain).

    Parameters
    ----------
    results : DataFrame
        With `COLUMNS`: strategy of `ql.fusion.STRATEGIES`; predictor patella, tibia, femur, tf
        (mean of tibia and femur) or ptf (of all three); metric sensitivity, specificity or auc;
        mean and 95 % interval, fractions of 1, such as of `RocBootstrap.table`. A result that
        is not there, or NaN, shows as a dash. Not modified.
    task : {"oa", "pain"}
    exams : str, optional
        What was tested, for the caption, such as "168 test exams of 160 patients, synthetic".

    Returns
    -------
    ClassifierTable
        Its `text`, `html` and `latex` show strategies and metrics as rows and predictors as
        columns, the paper's numbers below each. The best of each metric and column is marked,
        the paper's too; equal to the printed digit are marked together.

    Raises
    ------
    NotFoundError
        A column is missing; an unknown task, strategy, predictor or metric.
    InputError
        A number twice, or outside 0 to 1.
    """
    missing = [name for name in COLUMNS if name not in results]
    if missing:
        raise NotFoundError(
            f"no column {', '.join(missing)}", expected=", ".join(COLUMNS), where="classifier_table"
        )
    _known([task], _TASKS, "task")
    keys = ["strategy", "metric", "predictor"]
    for name, known in zip(keys, (STRATEGIES, METRICS, PREDICTORS), strict=True):
        _known(results[name].unique(), known, name)
    twice = results[results.duplicated(keys)]
    values = results[["mean", "low", "high"]].astype(float)
    outside = ((values < 0) | (values > 1)).any(axis=1)
    for rows, found, expected in (
        (twice, "twice", "each result once"),
        (results[outside], "outside 0 to 1", "fractions of 1, not percent"),
    ):
        if len(rows):
            of = ", ".join(str(rows.iloc[0][key]) for key in keys)
            raise InputError(
                f"{len(rows)} results {found}, first {of}", expected=expected,
                where="classifier_table", reason=Reason.UNREADABLE_VALUE,
            )  # fmt: skip
    cells = pd.MultiIndex.from_product([STRATEGIES, METRICS, PREDICTORS], names=keys)
    ours = (100 * results.set_index(keys)[["mean", "low", "high"]].astype(float)).reindex(cells)
    printed = published_classifiers(task).set_index(keys).reindex(cells)
    numbers = ours.assign(
        best=_best(ours["mean"]),
        paper=printed["value"],
        paper_low=printed["low"],
        paper_high=printed["high"],
        paper_best=_best(printed["value"]),
        paper_repaired=printed["note"] == _REPAIRED,
    ).reset_index()
    number, words = _TASKS[task]
    caption = f"Sensitivity, specificity and AUC for {words}"
    return ClassifierTable(number, f"{caption}{f': {exams}' if exams else ''}.", numbers)


def _best(values: pd.Series) -> pd.Series:
    """Say which of the strategies is the best of its metric and predictor, as printed."""
    shown = values.round(1)
    found: pd.Series = shown == shown.groupby(["metric", "predictor"]).transform("max")
    return found


def _known(given: Iterable[object], known: Mapping[str, object], what: str) -> None:
    for name in given:
        if name not in known:
            raise NotFoundError(
                f"{what} {name!r}", expected=", ".join(known), where="classifier_table",
                todo=did_you_mean(str(name), known),
            )  # fmt: skip


def cell(mean: float, low: float, high: float) -> str:
    """Spell a number in percent with its interval."""
    if math.isnan(mean):
        return _NONE
    return f"{mean:.1f} ({low:.1f}{_NONE}{high:.1f})"
