"""Statistics of cohorts: how well two ways to measure agree, and whether sets are balanced."""

from __future__ import annotations

from qmri_lake.statistics.agreement import Agreement, bland_altman
from qmri_lake.statistics.balance import BalanceTest, one_way_manova, pearson_chi2

__all__ = ["Agreement", "BalanceTest", "bland_altman", "one_way_manova", "pearson_chi2"]
