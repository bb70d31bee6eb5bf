"""Nested logistic models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from qmri_lake.errors import InputError
from qmri_lake.statistics import nested_logistic
from tests.conftest import Judge

COMPARTMENTS = ["medial", "lateral"]


def cohort(seed: int, *, effect: float = 0.0, exams: int = 300) -> tuple[np.ndarray, pd.DataFrame]:
    """Thickness [mm] of compartments and DL-guided; `effect` per mm is of the latter."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.25, (exams, 1))
    table = pd.DataFrame(
        2.0 + common + rng.normal(0, 0.2, (exams, 3)), columns=[*COMPARTMENTS, "guided"]
    )
    odds = -1.0 * (table["medial"] - 2.0) - effect * (table["guided"] - 2.0)
    return (rng.random(exams) < 1 / (1 + np.exp(-odds))).astype(int), table


def nested(label: np.ndarray | pd.Series, table: pd.DataFrame, **options: Any) -> Any:
    return nested_logistic(label, table[COMPARTMENTS], table["guided"], **options)


def test_nested_logistic__is_the_maximum_of_the_likelihood() -> None:
    label, table = cohort(0, effect=2.0)
    found = nested(label, table)

    def deviance(b: np.ndarray, x: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(label == 1, -1, 1) * (x @ b)).sum())

    scaled = ((table - table.mean()) / table.std(ddof=0)).to_numpy()
    design = np.column_stack([np.ones(len(label)), scaled])
    best = [
        optimize.minimize(deviance, np.zeros(k), args=(design[:, :k],), tol=1e-10) for k in (3, 4)
    ]
    assert found.log_likelihood == pytest.approx([-b.fun for b in best], abs=1e-6)
    assert found.statistic == pytest.approx(2 * (best[0].fun - best[1].fun), abs=1e-5)
    np.testing.assert_allclose(found.m1["coefficient"], best[1].x, atol=1e-4)
    assert found.p == pytest.approx(stats.chi2.sf(found.statistic, 1))
    assert list(found.m1.index) == ["constant", *COMPARTMENTS, "guided"]
    assert found.m1.loc["guided", "high"] < 1  # thicker under the CAM: less pain


def test_nested_logistic__p_is_uniform_under_the_null(judge: Judge) -> None:
    p = [nested(*cohort(seed)).p for seed in range(200)]
    ks = stats.kstest(p, "uniform").pvalue
    judge(
        "Likelihood-ratio test / p under the null, 200 simulations of 300 exams",
        required="uniform, Kolmogorov-Smirnov p > 0.01",
        measured=f"KS p {ks:.2f}, {np.mean(np.array(p) < 0.05):.1%} below 0.05",
        passed=ks > 0.01,
    )


def test_nested_logistic__detects_a_known_effect(judge: Judge) -> None:
    rejected = sum(nested(*cohort(seed, effect=3.0)).p < 0.05 for seed in range(1000, 1010))
    judge(
        "Likelihood-ratio test / simulated effect, odds ratio 3 per mm of thickness",
        required="p < 0.05 in >= 9 of 10 seeds",
        measured=f"{rejected} of 10",
        passed=rejected >= 9,
    )


def test_nested_logistic__clusters_by_patient() -> None:
    """Copies of exams of one patient add nothing; as independent exams they make p small."""
    label, table = cohort(3, effect=0.6)
    copies = pd.concat([table] * 4, ignore_index=True)
    patient = np.tile(np.arange(len(label)), 4)
    once = nested(label, table, patient=np.arange(len(label)))
    clustered = nested(np.tile(label, 4), copies, patient=patient)
    assert clustered.test == "Wald, clustered by patient"
    assert clustered.patients == len(label)
    assert clustered.statistic == pytest.approx(once.statistic, rel=0.02)
    plain = nested(np.tile(label, 4), copies)
    assert plain.statistic == pytest.approx(4 * nested(label, table).statistic)
    assert plain.p < clustered.p


def test_nested_logistic__covariates_are_in_both_models() -> None:
    label, table = cohort(4)
    table["age"] = np.random.default_rng(4).normal(60, 8, len(table))
    found = nested(label, table, covariates=table[["age"]])
    assert list(found.m0.index) == ["constant", "age", *COMPARTMENTS]
    assert list(found.m1.index) == ["constant", "age", *COMPARTMENTS, "guided"]
    assert found.df == 1


def test_nested_logistic__excludes_and_counts_missing_values() -> None:
    label, table = cohort(5)
    gaps = table.copy()
    gaps.loc[[3, 7], "guided"] = np.nan
    found = nested(label, gaps)
    rest = nested(np.delete(label, [3, 7]), table.drop([3, 7]))
    assert found.left_out == 2
    assert "2 left out" in str(found)
    assert found.statistic == pytest.approx(rest.statistic)


def refused(
    label: np.ndarray | pd.Series, table: pd.DataFrame, message: str, **options: Any
) -> None:
    with pytest.raises(InputError, match=message):
        nested(label, table, **options)


def test_nested_logistic__refuses_invalid_columns() -> None:
    label, table = cohort(6, exams=60)
    refused(np.ones(60), table, "only cases, 60 of them")
    refused(label, table.assign(guided=2.0), "guided: one value in all 60 exams")
    refused(label, table.assign(guided=table["medial"] + table["lateral"]), "is a linear comb")
    refused(label, table.assign(guided=np.nan), "0 cases and 0 controls.*guided lacks 60 of 60")
    refused(label, table.assign(guided=np.inf), "infinite values in guided")
    refused(label, table.assign(guided="thin"), "guided, not numbers")
    refused(label, table, "medial twice", covariates=table["medial"])
    refused(label, table, "59 rows of age", covariates=pd.Series(np.arange(59), name="age"))
    turned = table["guided"].iloc[::-1]
    with pytest.raises(InputError, match="guided with another index than medial, lateral"):
        nested_logistic(label, table[COMPARTMENTS], turned)
    shuffled = pd.Series(label).iloc[::-1]
    refused(shuffled, table, "labels with another index than medial, lateral")
    refused(label, table, "4 patients", patient=np.arange(60) % 4)


def test_nested_logistic__refuses_separation_and_names_the_columns() -> None:
    label, table = cohort(7, exams=60)
    alone = table.assign(guided=label + 0.5 * np.sin(np.arange(60)))
    refused(label, alone, r"columns of M1 separate \d+ cases from \d+ controls \(guided\)")
    # Quasi-complete: one exam of each class on the boundary, where Newton's steps never end.
    some = np.where(label == 1, (np.arange(60) % 3 == 0).astype(float), 0.0)
    refused(label, table.assign(guided=some), r"separate.*\(guided\)")
    together = table.assign(guided=4 * (label - 0.5) - table["medial"] + table["lateral"])
    refused(label, together, r"\(medial, lateral, guided\)|\(guided\)")
