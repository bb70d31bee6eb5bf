"""Statistics of cohorts: how well measurements agree, and what classifiers reach."""

from __future__ import annotations

from qmri_lake.statistics.agreement import Agreement, bland_altman
from qmri_lake.statistics.bootstrap import Interval, RocBootstrap, bootstrap_roc

__all__ = ["Agreement", "Interval", "RocBootstrap", "bland_altman", "bootstrap_roc"]
