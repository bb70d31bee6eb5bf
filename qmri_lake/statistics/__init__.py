"""Statistics of cohorts: how well two ways to measure agree."""

from __future__ import annotations

from qmri_lake.statistics.agreement import Agreement, bland_altman

__all__ = ["Agreement", "bland_altman"]
