"""Intervals of all tables and figures, for few and many patients."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from qmri_lake import report
from qmri_lake.diagnosis.evaluation.classifier_tables import METRICS, PREDICTORS
from qmri_lake.diagnosis.evaluation.thickness_models import GUIDED_TERM
from qmri_lake.errors import InputError
from qmri_lake.fusion import STRATEGIES
from qmri_lake.published import SEGMENTATION
from qmri_lake.report.figure_s3_agreement import COLUMNS as AGREEMENT
from qmri_lake.report.segmentation_report import table_s1
from qmri_lake.segmentation.evaluation.scores import COLUMNS, TISSUES
from qmri_lake.statistics import bootstrap_roc, interval_limits, nested_logistic
from qmri_lake.statistics.interval_limits import RANGES
from tests.conftest import Judge
from tests.statistics.test_interval_limits import modules_with_rules

NUMBER = r"([+\N{MINUS SIGN}-]?\d[\d,]*\.?\d*)"
INTERVAL = re.compile(
    rf"{NUMBER}(?:\N{{EN DASH}}| to |, ){NUMBER}[\])]|limits {NUMBER} to {NUMBER}"
)
PERCENT, RATIO, LENGTH, ANY = (0, 100), (0, 1), (0, np.inf), (-np.inf, np.inf)


@dataclass(frozen=True)
class Printed:
    """An interval as a reader sees it."""

    where: str
    low: float
    high: float
    range: tuple[float, float]

    @property
    def is_within(self) -> bool:
        return self.range[0] <= self.low <= self.high <= self.range[1]


def find(where: str, text: str, allowed: tuple[float, float]) -> Iterator[Printed]:
    for found in INTERVAL.finditer(text):
        low, high = (
            float(part.replace("\N{MINUS SIGN}", "-").replace(",", ""))
            for part in found.groups()
            if part
        )
        yield Printed(where, low, high, allowed)


def texts(figure: Figure) -> str:
    return "\n".join(artist.get_text() for artist in figure.findobj(Text))


def classified(patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, good scores, and patients: one knee of each is a case, the other is not."""
    rng = np.random.default_rng(patients)
    patient = np.repeat(np.arange(patients), 2)
    label = np.tile([0, 1], patients)
    return label, 1 / (1 + np.exp(-rng.normal(3 * label - 1.5, 1.5))), patient


def masks(patients: int) -> Iterator[Printed]:
    """Table S1 of nearly perfect masks."""
    rng = np.random.default_rng(patients)
    scores = {
        kind: pd.DataFrame(
            [
                (f"{n}", n, tissue, 1 - 0.1 * rng.random() ** 6, rng.random() ** 4, "")
                for n in range(patients)
                for tissue in TISSUES[kind]
            ],
            columns=COLUMNS,
        )
        for kind in ("bone", "cartilage")
    }
    table = table_s1(scores)
    for name, allowed in (("DSC [%]", PERCENT), ("MPTS [mm]", LENGTH)):
        yield from find("Table S1", "\n".join(table[name]), allowed)


def classifiers(patients: int) -> Iterator[Printed]:
    """Tables S2 and S3 by both methods, and the ROC and calibration curves."""
    label, score, patient = classified(patients)
    for kind in ("percentile", "paper"):
        found = bootstrap_roc(label, score, patient=patient, seed=0, interval=kind)
        rows = pd.concat(
            found.table().assign(strategy=strategy, predictor=predictor)
            for strategy in STRATEGIES
            for predictor in PREDICTORS
        )
        table = report.classifier_table(rows, "oa")
        for row in table.numbers.dropna(subset=["low"]).itertuples():
            yield Printed(f"Table S2, {kind}", row.low, row.high, PERCENT)
        text = re.sub(r"<small.*?</small>|<caption.*?</caption>", "", table.html())
        yield from find(f"Table S2, {kind}, page", text, PERCENT)
        assert all(metric in table.text() for metric in METRICS.values())
        yield from find("bootstrap_roc", str(found), RATIO)
    roc = report.roc_figure(label, {"ptf": score}, patient=patient)
    yield from find("ROC curves", texts(roc), RATIO)
    curves = report.calibration_figure(label, {"ptf": score}, patient=patient, bins=2)
    for bar in curves.axes[0].collections:
        for (_, low), (_, high) in bar.get_segments():  # type: ignore[attr-defined]
            yield Printed("calibration", low, high, RATIO)


def agreement(patients: int) -> Iterator[Printed]:
    """Figure S3, of two exams per patient."""
    rng = np.random.default_rng(patients)
    table = pd.DataFrame(
        [
            (f"{9000001 + n}-000m-{knee}", bone, biomarker, *rng.normal(2, 0.3, 3))
            for n in range(patients)
            for knee in ("left", "right")
            for bone in ("femur", "tibia", "patella")
            for biomarker in ("thickness", "t2")
        ],
        columns=list(AGREEMENT),
    )
    yield from find("Figure S3", texts(report.figure_s3(table)), ANY)


def association(patients: int) -> Iterator[Printed]:
    """Odds ratios of models clustered by patient, of two exams per patient."""
    rng = np.random.default_rng(patients)
    index = np.arange(2 * patients)
    base, guided = (pd.Series(rng.normal(2, 0.3, len(index)), index) for _ in range(2))
    given = (index % 2, base.rename("MF"), guided.rename(GUIDED_TERM))
    if patients == 3:
        with pytest.raises(InputError, match="more than the 3 terms of M1"):
            nested_logistic(*given, patient=index // 2)
        return
    models = nested_logistic(*given, patient=index // 2)
    table = report.association_table({"femur": models})
    for row in table.numbers.dropna(subset=["low"]).itertuples():
        yield Printed("association", row.low, row.high, LENGTH)
    yield from find("association, page", table.html().partition("<tfoot>")[0], LENGTH)


REPORTS: tuple[Callable[[int], Iterator[Printed]], ...] = (
    masks,
    classifiers,
    agreement,
    association,
)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float, float, str]]:
    """All calls of the rules in modules that compute intervals: module, patients, limits, scale."""
    calls: list[tuple[str, int, float, float, str]] = []

    def record(module: str, rule: Callable[..., tuple[float, float]]) -> Callable[..., Any]:
        def recording(*values: float, patients: int, scale: Any = "linear") -> Any:
            found = rule(*values, patients=patients, scale=scale)
            calls.append((module, patients, *found, scale))
            return found

        return recording

    for path in modules_with_rules():
        module = importlib.import_module(f"qmri_lake.{path.removesuffix('.py').replace('/', '.')}")
        for name in ("checked_limits", "limits_around"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, record(path, getattr(interval_limits, name)))
    return calls


def test_intervals__of_every_report_lie_within_their_range(
    recorded: list[tuple[str, int, float, float, str]], judge: Judge
) -> None:
    printed = {
        patients: [one for make in REPORTS for one in make(patients)] for patients in (3, 5, 8, 30)
    }
    computed = [call for call in recorded if np.isfinite(call[2])]
    outside = [one for found in printed.values() for one in found if not one.is_within]
    outside += [
        Printed(module, low, high, RANGES[scale])
        for module, _, low, high, scale in computed
        if not RANGES[scale][0] <= low <= high <= RANGES[scale][1]
    ]
    few = [call for call in computed if call[1] < 5]
    kinds = {one.where for one in printed[30]}
    counts = ", ".join(f"{len(found)} of {patients}" for patients, found in printed.items())
    judge(
        "intervals / all tables and figures, of 3, 5, 8 and 30 patients",
        required="every interval within the range of its quantity; none below five patients; "
        "every module that computes intervals is used",
        measured=f"printed: {counts} patients, in {len(kinds)} kinds of tables and figures; "
        f"computed: {len(computed)} by {len({call[0] for call in computed})} modules; "
        f"{len(outside)} outside, {len(few)} below five patients",
        passed=not outside
        and not few
        and not printed[3]
        and all(printed[patients] for patients in (5, 8, 30))
        and kinds
        == {
            *("Table S1", "Table S2, percentile", "Table S2, percentile, page", "bootstrap_roc"),
            *("Table S2, paper", "Table S2, paper, page", "ROC curves", "calibration"),
            *("Figure S3", "association", "association, page"),
        }
        and {call[0] for call in computed} == modules_with_rules(),
    )


def test_intervals__of_the_paper_lie_within_their_range() -> None:
    for values in SEGMENTATION.values():
        for name, (mean, low, high) in values.items():
            assert 0 < low < mean < high < (100 if name == "dsc" else np.inf)
    published = report.published_classifiers()
    assert ((published["low"] >= 0) & (published["high"] <= 100)).all()


def test_tables__say_why_there_is_no_interval() -> None:
    label, score, patient = classified(4)
    rows = bootstrap_roc(label, score, patient=patient, seed=0).table()
    table = report.classifier_table(rows.assign(strategy="t2", predictor="ptf"), "oa")
    assert "Values without an interval are of fewer than five patients" in table.text()
    assert "nan" not in table.text()
    roc = texts(report.roc_figure(label, {"ptf": score}, patient=patient))
    assert "AUC (no interval: fewer than five patients)" in roc
    curve = texts(report.calibration_figure(label, {"ptf": score}, patient=patient))
    assert "no intervals in bins of fewer than five patients" in curve
