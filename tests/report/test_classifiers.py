"""Tables S2 and S3, and pictures of classifiers."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from qmri_lake import fusion, report
from qmri_lake.diagnosis.evaluation.classifier_tables import COLUMNS, METRICS, PREDICTORS
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.statistics import bootstrap_roc, brier_score, delong_interval


def results(seed: int = 0) -> pd.DataFrame:
    """A number for each cell, best known: those of `all`, 0.2 above."""
    rng = np.random.default_rng(seed)
    rows = []
    for strategy in fusion.STRATEGIES:
        for predictor in PREDICTORS:
            for metric in METRICS:
                mean = rng.uniform(0.5, 0.7) + 0.2 * (strategy == "all")
                rows.append((strategy, predictor, metric, mean, mean - 0.04, mean + 0.03))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_classifier_table__holds_each_result_and_marks_the_best_of_each_column() -> None:
    given = results().sample(frac=1, random_state=0)
    table = report.classifier_table(given, "oa", exams="12 exams, synthetic")
    assert table.number == "S2"
    keys = ["strategy", "metric", "predictor"]
    both = table.numbers.merge(given, on=keys, suffixes=("", "_given"), validate="1:1")
    assert len(both) == len(given) == 6 * 3 * 5
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(both[name], 100 * both[f"{name}_given"])
    assert (table.numbers["best"] == (table.numbers["strategy"] == "all")).all()
    text = table.text()
    for row in given.itertuples():
        ours = f"{100 * row.mean:.1f} ({100 * row.low:.1f}–{100 * row.high:.1f})"
        assert ours + "*" * (row.strategy == "all") in text
    assert "12 exams, synthetic" in text


def test_classifier_table__marks_all_values_equal_as_printed() -> None:
    given = results()
    here = (given["predictor"] == "ptf") & (given["metric"] == "auc")
    given.loc[here, "mean"] = [0.8, 0.90001, 0.7, 0.90002, 0.6, 0.8]
    numbers = report.classifier_table(given, "pain").numbers
    best = numbers[numbers["best"] & (numbers["predictor"] == "ptf") & (numbers["metric"] == "auc")]
    assert best["strategy"].tolist() == ["thickness", "bone_shape+thickness"]


def test_classifier_table__a_missing_result_is_a_dash() -> None:
    given = results().query("strategy != 't2' and predictor != 'tf'")
    given.loc[given["strategy"] == "thickness", ["mean", "low", "high"]] = np.nan
    table = report.classifier_table(given, "oa")
    gone = table.numbers["strategy"].isin(["t2", "thickness"]) | (
        table.numbers["predictor"] == "tf"
    )
    assert (table.numbers["mean"].isna() == gone).all()
    assert not table.numbers["best"][gone].any()
    assert "nan" not in table.text() + table.html() + table.latex()
    assert "– No result." in table.text()


def test_classifier_table__text_html_and_latex_agree() -> None:
    table = report.classifier_table(results(), "pain", exams="a & b, 5 % <x>")
    pattern = re.compile(r"\d+\.\d \(\d+\.\d–\d+\.\d\)†?\*?")
    text = pattern.findall(table.text())
    assert len(text) == 6 * 3 * (5 + 4)  # the paper has no tibia + femur
    page = ElementTree.fromstring(table.html())
    cells = [cell for cell in page.iter("td") if "colspan" not in cell.attrib]
    assert len(cells) == 6 * 3 * 5
    assert sorted(pattern.findall(" ".join("".join(c.itertext()) + " " for c in cells))) == sorted(
        text
    )
    assert "a & b, 5 % <x>" in "".join(page.find("caption").itertext())  # type: ignore[union-attr]
    latex = table.latex()
    assert r"a \& b, 5 \% $<$x$>$" in latex
    assert latex.count("{") == latex.count("}")
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {7}
    plain = re.sub(r"\\textbf\{([^}]*)\}", r"\1", "\n".join(body)).replace(r"\dag{}", "†")
    assert pattern.findall(plain.replace("--", "–")) == text


def test_classifier_table__refuses_invalid_results() -> None:
    given = results()
    with pytest.raises(NotFoundError, match="no column low, high"):
        report.classifier_table(given.drop(columns=["low", "high"]), "oa")
    with pytest.raises(NotFoundError, match=r"no task 'chronic_pain' \(expected one of oa, pain"):
        report.classifier_table(given, "chronic_pain")
    with pytest.raises(NotFoundError, match=r"strategy 'thicknes'.*Did you mean 'thickness'"):
        report.classifier_table(given.replace({"strategy": {"thickness": "thicknes"}}), "oa")
    with pytest.raises(NotFoundError, match="predictor 'fibula'"):
        report.classifier_table(given.replace({"predictor": {"femur": "fibula"}}), "oa")
    with pytest.raises(InputError, match="1 results given twice, first t2, sensitivity, patella"):
        report.classifier_table(pd.concat([given, given[:1]]), "oa")
    percent = given.assign(mean=100 * given["mean"])
    with pytest.raises(InputError, match="90 results outside 0 to 1"):
        report.classifier_table(percent, "oa")


def test_published_classifiers__are_the_papers(real_data: Path) -> None:
    path = real_data.parent / "paper_tables.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with path.open() as file:
        facts = [row for row in csv.DictReader(file) if row["table"] in ("S2", "S3")]
    mine = report.published_classifiers().set_index(["table", "strategy", "metric", "predictor"])
    assert len(facts) == len(mine) == 144
    for fact in facts:
        row = mine.loc[fact["table"], fact["strategy"], fact["metric"], fact["predictor"]]
        assert [row["value"], row["low"], row["high"]] == [
            float(fact[name]) for name in ("percent", "ci_low", "ci_high")
        ]
        assert (row["note"] == "high repaired") == ("repaired" in fact["note"])
        assert fact["task"].endswith(row["task"])


def classified() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    label = (rng.random(120) < 0.4).astype(int)
    of = {p: 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1.2))) for p in PREDICTORS}
    return label, of


def test_classifier_table__takes_what_bootstrap_roc_gives() -> None:
    label, of = classified()
    rows = [
        bootstrap_roc(label, score, seed=0).table().assign(strategy="t2", predictor=name)
        for name, score in of.items()
    ]
    numbers = report.classifier_table(pd.concat(rows), "oa").numbers
    assert numbers["mean"].notna().sum() == 15


def test_roc_figure__has_a_curve_a_classifier_with_its_auc() -> None:
    label, of = classified()
    fig = report.roc_figure(label, of, title="OA")
    (ax,) = fig.axes
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(words) == 5
    for line, word, (name, score) in zip(ax.lines[1::2], words, of.items(), strict=True):
        auc = delong_interval(label, score).auc
        assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(auc)
        assert word.startswith(f"{PREDICTORS[name]}: {auc:.2f} (")
    fig.savefig(io.BytesIO(), format="svg")


def test_calibration_figure__draws_bins_with_exams_only() -> None:
    label, of = classified()
    values = np.clip(of["ptf"], 0.3, 0.999)
    fig = report.calibration_figure(label, {"ptf": values}, bins=5)
    ax = fig.axes[0]
    x, y = ax.lines[1].get_data()
    assert len(x) == 4
    inside = (values >= 0.4) & (values < 0.6)
    assert (x[1], y[1]) == pytest.approx((values[inside].mean(), label[inside].mean()))
    (word,) = (text.get_text() for text in fig.legends[0].get_texts())
    assert word == f"All three: {brier_score(label, values):.3f}"
    fig.savefig(io.BytesIO(), format="svg")


def test_figures__refuse_none_and_too_many() -> None:
    label, of = classified()
    with pytest.raises(InputError, match="0 classifiers"):
        report.roc_figure(label, {})
    many = {f"{k}": of["ptf"] for k in range(7)}
    with pytest.raises(InputError, match=r"7 classifiers \(expected 1 to 6"):
        report.calibration_figure(label, many)
