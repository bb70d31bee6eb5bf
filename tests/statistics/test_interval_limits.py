"""The rules that all intervals follow, and that no interval is computed without them."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import qmri_lake
from qmri_lake.errors import RunError
from qmri_lake.statistics.interval_limits import (
    FEWEST,
    RANGES,
    Scale,
    checked_limits,
    limits_around,
)

PACKAGE = Path(qmri_lake.__file__).parent
RULES = {"checked_limits", "limits_around"}
METHODS = {
    *("ppf", "isf", "sem", "conf_int", "proportion_ci", "confidence_interval", "bootstrap"),
    *("proportion_confint", "t_interval"),
}
"""Functions of SciPy and statsmodels that give limits or their widths."""
OF_EXAMS = {"lake/deep_validation.py"}
"""Modules whose exact limits are of a sample of exams, not of results of patients."""
QUANTILES = {"quantile", "percentile", "nanquantile", "nanpercentile"}
"""Functions that return the limits of an interval if they are called with two probabilities."""


def makes_intervals(tree: ast.Module) -> bool:
    """Return whether a module contains a method for intervals: a function, or 1.96."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == 1.96:
            return True
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        pair = any(isinstance(a, ast.Tuple | ast.List) and len(a.elts) == 2 for a in node.args[1:])
        if name in METHODS or (name in QUANTILES and pair):
            return True
    return False


def names_used(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def modules_with_intervals() -> set[str]:
    """Return the modules of the package that compute intervals."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if makes_intervals(ast.parse(path.read_text(encoding="utf-8")))
    }


def modules_with_rules() -> set[str]:
    """Return the modules that pass limits through the rules."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if RULES & names_used(ast.parse(path.read_text(encoding="utf-8")))
        and path.name != "interval_limits.py"
    }


def test_every_module_that_computes_intervals_follows_the_rules() -> None:
    found = modules_with_intervals()
    assert {"statistics/delong.py", "statistics/calibration.py"} <= found
    assert found - OF_EXAMS <= modules_with_rules()


@pytest.mark.parametrize("scale", RANGES)
@pytest.mark.parametrize("half", [1e-9, 0.01, 0.4, 30.0, 1e6])
def test_limits_around__lie_within_the_range(scale: Scale, half: float) -> None:
    lowest, highest = RANGES[scale]
    for estimate in (1e-6, 0.2, 0.5, 0.97, 1 - 1e-9):
        low, high = limits_around(estimate, half, patients=FEWEST, scale=scale)
        assert lowest <= low <= estimate <= high <= highest


def test_limits_around__agree_with_the_linear_scale_if_they_are_narrow() -> None:
    for scale in RANGES:
        found = limits_around(0.6, 1e-4, patients=9, scale=scale)
        assert found == pytest.approx((0.5999, 0.6001), abs=1e-7)


def test_limits__need_five_patients() -> None:
    assert np.isnan(limits_around(0.6, 0.1, patients=4)).all()
    assert np.isnan(checked_limits(0.1, 0.2, patients=4)).all()
    assert checked_limits(0.1, 0.2, patients=5) == (0.1, 0.2)


def test_limits__of_an_estimate_at_the_end_of_the_range() -> None:
    assert np.isnan(limits_around(1.0, 0.1, patients=9, scale="logit")).all()
    assert np.isnan(limits_around(0.0, 0.1, patients=9, scale="log")).all()
    assert np.isnan(limits_around(0.5, np.nan, patients=9)).all()


def test_checked_limits__outside_the_range_raise_an_error() -> None:
    with pytest.raises(RunError, match=r"from 0.9 to 1.1 \(expected limits from 0 to 1\)"):
        checked_limits(0.9, 1.1, patients=9, scale="logit")
    with pytest.raises(RunError, match=r"from 2 to 1 "):
        checked_limits(2.0, 1.0, patients=9)
