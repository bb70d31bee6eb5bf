"""A lake of 47,078 exams answers quickly, and the time of commits does not increase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.lake_scale import (
    EXAMS,
    QUERY,
    WITH_MSME,
    best,
    big_lake,
    growth,
    operations,
)
from qmri_lake.lake import open_lake


@pytest.mark.accept
@pytest.mark.parametrize(
    ("question", "limit"),
    [
        ("open, and a cohort by query", 1.0),
        ("one exam by its three keys", 0.1),
        ("plan t2", 2.0),
    ],
)
def test_big_lake__operations(big: Path, judge: Any, question: str, limit: float) -> None:
    seconds = best(operations(str(big))[question])
    judge(
        f"{EXAMS:,} exams / {question}",
        required=f"under {limit:g} CPU seconds",
        measured=f"{seconds:.3f}",
        passed=seconds < limit,
    )


@pytest.mark.slow
def test_big_lake__right_answers(big: Path) -> None:
    lake = open_lake(str(big))
    table = lake.cohort().table()
    wanted = (table["knee"] == "right") & (table["timepoint"] == 0) & (table["kl"] >= 2)
    cohort = lake.cohort(QUERY)
    assert cohort.rows.tolist() == np.flatnonzero(wanted.fillna(False)).tolist()
    assert len(cohort) > 1000
    one = lake.load("msme", patient=9_000_003, timepoint=24, knee="right")
    assert one["exam"].values.tolist() == ["9000003-024m-right"]
    plan = lake.plan("t2")
    assert len(plan.rows) == WITH_MSME
    assert sum(plan.waiting.values()) == EXAMS - WITH_MSME
    assert lake.validate() == []


@pytest.mark.accept
def test_commit__thousand_times(tmp_path: Path, judge: Any) -> None:
    aged, fresh = big_lake(tmp_path / "aged.lake"), big_lake(tmp_path / "fresh.lake")
    before, first, last = (1e3 * seconds for seconds in growth(aged, fresh, 1000))
    judge(
        "1,000 commits of 64 exams / median of the last 100 against the first 100",
        required="at most 1.2x",
        measured=f"{last:.1f} against {first:.1f} ms repeated in this run, {last / first:.2f}x "
        f"({before:.1f} ms at the beginning)",
        passed=last <= 1.2 * first,
    )
