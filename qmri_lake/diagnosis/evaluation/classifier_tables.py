"""Tables S2 and S3: metrics of classifiers beside the paper's values, as text, HTML and LaTeX."""

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

from qmri_lake.core.latex import escape_tex, tabular
from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.fusion import STRATEGIES, strategy_title
from qmri_lake.published import CITATION

__all__ = [
    "COLUMNS",
    "METRICS",
    "PREDICTORS",
    "ClassifierTable",
    "cell",
    "classifier_table",
    "published_classifiers",
]

COLUMNS = ("strategy", "predictor", "metric", "mean", "low", "high")
"""Columns of a table of results, which has one row per value. Values are fractions of 1."""

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
    """Table S2 or S3 of a lake, with the paper's values."""

    number: str
    """S2 or S3."""
    caption: str
    numbers: pd.DataFrame
    """One row per cell. Columns: strategy, metric and predictor; mean, low and high in percent, NaN
    without a result, and limits also for fewer than five patients; best: whether the printed mean
    is the highest for its metric and predictor; paper, paper_low, paper_high and paper_best: the
    same for the paper, NaN if the paper has no value; paper_repaired: whether the upper end of the
    paper's interval lacked a digit."""
    remarks: tuple[str, ...] = ()
    """Sentences on the exams, which are added to the footnotes."""

    @property
    def notes(self) -> list[str]:
        """Footnotes, one sentence each."""
        shown = self.numbers
        notes = [
            "Values are percentages with 95 % intervals.",
            "* Best strategy for each metric and column, in the lake and in the paper.",
        ]
        lines = f"Second lines: {CITATION}"
        published = set(shown["predictor"][shown["paper"].notna()])
        lacking = [title.lower() for name, title in PREDICTORS.items() if name not in published]
        if lacking:
            lines += f", which has no values for {', '.join(lacking)}"
        notes.append(f"{lines}.")
        if shown["paper_repaired"].any():
            notes.append(
                "\N{DAGGER} The first digit of the upper end is missing in print and was added."
            )
        if (shown["mean"].notna() & shown["low"].isna()).any():
            notes.append(
                "Values without an interval are of fewer than five patients (sensitivity: with a "
                "case; specificity: with a control)."
            )
        if shown["mean"].isna().any():
            notes.append(f"{_NONE} No result.")
        return [*notes, *self.remarks]

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
        return "\n".join(
            [
                f"Table {self.number}. {self.caption}",
                rule,
                f"\n{rule}\n".join(parts),
                rule,
                *self.notes,
            ]
        )

    def html(self) -> str:
        """Return a ``<table>`` with inline styles; the paper's values are in small print."""

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
                f"<td>{value}<br/><small style='color:#5c6b7a'>{published}</small></td>"
                for value, published in zip(ours, paper, strict=True)
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
        """Return a ``table*``, which requires only the package booktabs."""

        def emphasis(text: str, best: bool) -> str:
            return rf"\textbf{{{escape_tex(text)}}}" if best else escape_tex(text)

        rows = []
        for k, (strategy, metric, ours, paper) in enumerate(self._rows(emphasis)):
            first = k % len(METRICS) == 0
            rows.append([escape_tex(strategy) if first else "", metric, *ours])
            rows.append(["", r"\quad paper", *paper])
        cells = pd.DataFrame(rows, columns=["Strategy", "Metric", *PREDICTORS.values()])
        notes = " ".join(escape_tex(note) for note in self.notes)
        return "\n".join(
            [
                r"\begin{table*}",
                r"\centering\scriptsize",
                rf"\renewcommand{{\thetable}}{{{self.number}}}",
                rf"\caption{{{escape_tex(self.caption)}}}",
                tabular(cells, escape=False, block=2 * len(METRICS)),
                rf"\par\smallskip\raggedright {notes}",
                r"\end{table*}",
            ]
        )

    def _rows(
        self, emphasis: Callable[[str, bool], str]
    ) -> list[tuple[str, str, list[str], list[str]]]:
        """Return strategy, metric, the lake's cells and the paper's cells of each row."""
        rows = []
        for name in self.numbers["strategy"].unique():  # in the order of `STRATEGIES`
            title = strategy_title(name)
            for metric, word in METRICS.items():
                both = self.numbers[
                    (self.numbers["strategy"] == name) & (self.numbers["metric"] == metric)
                ].set_index("predictor")
                ours, paper = [], []
                for predictor in PREDICTORS:
                    row: dict[Any, Any] = both.loc[predictor].to_dict()
                    best, paper_best = bool(row["best"]), bool(row["paper_best"])
                    text = cell(row["mean"], row["low"], row["high"])
                    ours.append(emphasis(text + "*" * best, best))
                    text = cell(row["paper"], row["paper_low"], row["paper_high"])
                    repaired = "\N{DAGGER}" * bool(row["paper_repaired"])
                    paper.append(emphasis(text + repaired + "*" * paper_best, paper_best))
                rows.append((title, word, ours, paper))
        return rows


@functools.cache
def _published() -> pd.DataFrame:
    with (files("qmri_lake") / "published_classifiers.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


def published_classifiers(task: str | None = None) -> pd.DataFrame:
    """Return the values of Tables S2 and S3 of the paper.

    Parameters
    ----------
    task : {"oa", "pain"}, optional
        Default: both.

    Returns
    -------
    DataFrame
        Columns table, task, strategy, predictor and metric; value, low and high: mean and 95 %
        interval over 100 bootstrap samples in percent [paper]; note: "high repaired" if the first
        digit of the upper end is missing in print. The paper has no values for predictor tf.

    Raises
    ------
    NotFoundError
        If the task is unknown.

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
    _check_names([task], _TASKS, "task")
    return table[table["task"] == task].reset_index(drop=True)


def classifier_table(results: pd.DataFrame, task: str, *, exams: str = "") -> ClassifierTable:
    """Return Table S2 (OA) or S3 (chronic pain).

    Parameters
    ----------
    results : DataFrame
        With `COLUMNS`: strategy is one of `ql.fusion.STRATEGIES`; predictor is patella, tibia,
        femur, tf (mean of tibia and femur) or ptf (mean of all three); metric is sensitivity,
        specificity or auc; mean, low and high are the mean and its 95 % interval as fractions of 1,
        for example from `RocBootstrap.table`. Missing results and NaN are shown as a dash. The
        table is not modified.
    task : {"oa", "pain"}
    exams : str, optional
        Description of the exams in the caption, such as "168 test exams of 160 patients,
        synthetic".

    Returns
    -------
    ClassifierTable
        The table, with methods `text`, `html` and `latex`. Rows are strategies and metrics, columns
        are predictors, and the paper's values are below each row. The best values of each metric
        and column are marked, separately for the lake and the paper. If several values are equal as
        printed, all of them are marked.

    Raises
    ------
    NotFoundError
        If a column is missing, or a task, strategy, predictor or metric is unknown.
    InputError
        If there are two results for a cell, or values outside 0 to 1.
    """
    missing = [name for name in COLUMNS if name not in results]
    if missing:
        raise NotFoundError(
            f"no column {', '.join(missing)}", expected=", ".join(COLUMNS), where="classifier_table"
        )
    _check_names([task], _TASKS, "task")
    keys = ["strategy", "metric", "predictor"]
    for name, known in zip(keys, (STRATEGIES, METRICS, PREDICTORS), strict=True):
        _check_names(results[name].unique(), known, name)
    twice = results[results.duplicated(keys)]
    values = results[["mean", "low", "high"]].astype(float)
    outside = ((values < 0) | (values > 1)).any(axis=1)
    for rows, found, expected in (
        (twice, "given twice", "each result once"),
        (results[outside], "outside 0 to 1", "fractions of 1, not percent"),
    ):
        if len(rows):
            of = ", ".join(str(rows.iloc[0][key]) for key in keys)
            raise InputError(
                f"{len(rows)} results {found}, first {of}",
                expected=expected,
                where="classifier_table",
                reason=Reason.UNREADABLE_VALUE,
            )
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
    """Return whether each value, as printed, is the best for its metric and predictor."""
    shown = values.round(1)
    best: pd.Series = shown == shown.groupby(["metric", "predictor"]).transform("max")
    return best


def _check_names(given: Iterable[object], known: Mapping[str, object], what: str) -> None:
    for name in given:
        if name not in known:
            raise NotFoundError(
                f"no {what} {name!r}",
                expected=f"one of {', '.join(known)}",
                where="classifier_table",
                todo=did_you_mean(str(name), known),
            )


def cell(mean: float, low: float, high: float) -> str:
    """Format a value in percent with its interval, if it has one."""
    if math.isnan(mean):
        return _NONE
    if math.isnan(low):
        return f"{mean:.1f}"
    return f"{mean:.1f} ({low:.1f}{_NONE}{high:.1f})"
