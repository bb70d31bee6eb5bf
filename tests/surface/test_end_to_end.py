"""Region averages and maps of 30 synthetic knees, compared with their truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.phantom import exams, knee
from qmri_lake.steps.spherical_maps import _map_exam
from qmri_lake.surface.spherical_maps import MAP_STATUS
from tests.conftest import Judge
from tests.fixtures import knee_lake
from tests.surface.truth import UNITS, compare, fitted, judge_maps

pytestmark = [pytest.mark.accept, pytest.mark.timeout(3600)]


def test_true_masks_and_t2__to_regions(tmp_path: Path, judge: Judge) -> None:
    shape = (120, 288, 288)
    chosen = exams(30)
    lake = knee_lake(tmp_path / "oai.lake", [knee(exam, shape=shape) for exam in chosen])
    with ql.cluster("cpu") as workers:
        for step in ("sphere", "region"):
            assert lake.run(step, cluster=workers).failed == 0
    table = compare(lake, chosen, shape)
    found = {name: fitted(table, name) for name in UNITS}
    judge(
        "end to end / six compartments of 30 synthetic knees, true masks and T2, 120 x 288 x 288",
        required="slope 0.95 to 1.05, r above 0.95: over articular area, T2; covered: printed",
        measured="; ".join(words for words, *_ in found.values()),
        passed=all(
            0.95 <= slope <= 1.05 and r > 0.95
            for _, slope, r in (found["thickness_total"], found["t2"])
        ),
    )
    judge_maps(judge, "true masks", lake, 0.05)


def test_healthy_knees__have_no_flag(judge: Judge) -> None:
    healthy = [exam for exam in exams(120) if exam.knee.kl <= 1][:30]
    odd, states = [], []
    for exam in healthy:
        truth = knee(exam, shape=(80, 192, 192))
        maps, notes = _map_exam(
            truth.dess_bone,
            truth.dess_cartilage,
            truth.dess_affine,
            knee=exam.side,
            method="normal",
            closing=5.0,
        )
        odd += notes
        states += maps.map_status.tolist()
    short = states.count(MAP_STATUS["short_shaft"])
    fine = short + states.count(MAP_STATUS["mapped"])
    judge(
        "spherical map / bones of 30 healthy synthetic knees",
        required="90 of 90 without a flag",
        measured=f"{fine} of {len(states)}; {short} from a centre placed by rule"
        + "".join(f"; {words}" for words in odd),
        passed=fine == len(states) == 90,
    )
    assert np.isin(states, list(MAP_STATUS.values())).all()
