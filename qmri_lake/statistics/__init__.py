"""Statistics of cohorts: agreement, balance, metrics of classifiers and associations."""

from __future__ import annotations

from qmri_lake.statistics.agreement import Agreement, bland_altman
from qmri_lake.statistics.association import NestedModels, nested_logistic
from qmri_lake.statistics.balance import (
    BalanceTest,
    one_way_manova,
    pearson_chi2,
    standardised_difference,
)
from qmri_lake.statistics.calibration import brier_score, calibration_curve
from qmri_lake.statistics.classification_metrics import Interval, RocBootstrap, bootstrap_roc
from qmri_lake.statistics.delong import Auc, AucDifference, delong_interval, delong_test
from qmri_lake.statistics.mean_interval import mean_interval
from qmri_lake.statistics.roc import roc_curve, youden_threshold

__all__ = [
    "Agreement",
    "Auc",
    "AucDifference",
    "BalanceTest",
    "Interval",
    "NestedModels",
    "RocBootstrap",
    "bland_altman",
    "bootstrap_roc",
    "brier_score",
    "calibration_curve",
    "delong_interval",
    "delong_test",
    "mean_interval",
    "nested_logistic",
    "one_way_manova",
    "pearson_chi2",
    "roc_curve",
    "standardised_difference",
    "youden_threshold",
]
