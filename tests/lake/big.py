"""A lake as large as the OAI's, made by direct array writes: keys, clinical columns, statuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.lake import Lake, create_lake
from qmri_lake.relaxometry.step import t2
from qmri_lake.status import STATE, declare_status
from qmri_lake.storage import commit, open_root
from qmri_lake.variables import REGISTRY, sizes_of
from qmri_lake.writing import Change, append_exams, declare

EXAMS = 47_078
WITH_MSME = 21_118
TIMEPOINTS = np.array([0, 12, 24, 36, 48, 72, 96])
SHAPE = (2, 4, 4, 4)
"""Echoes, slices, rows, columns: how many volumes there are matters here, not their size."""


def keys(count: int = EXAMS) -> pd.DataFrame:
    """Both knees of each patient, at seven visits."""
    index = np.arange(count)
    return pd.DataFrame(
        {
            "patient": 9_000_000 + index // 14,
            "timepoint": TIMEPOINTS[(index // 2) % 7],
            "knee": np.array(["right", "left"], dtype=object)[index % 2],
        }
    )


def big_lake(path: Path, count: int = EXAMS, with_msme: int = WITH_MSME) -> Lake:
    """A lake of `count` exams, the first `with_msme` of them with images that t2 can run on."""
    lake = create_lake(str(path))
    rng = np.random.default_rng(0)
    clinical = REGISTRY.group("clinical")

    def build(session):
        append_exams(session, keys(count))
        root = open_root(session.store, "r+")
        declare(root, clinical)
        for variable in clinical:
            if variable.flags is not None:
                values = rng.choice([*variable.flags.values(), variable.fill], count)
            else:
                low, high = variable.valid_range
                values = rng.integers(low, high, count, endpoint=True).astype(float)
                values[rng.random(count) < 0.2] = np.nan
            root[variable.path][:] = values.astype(variable.dtype)
        declare(root, REGISTRY.made_by("ingest_msme") + REGISTRY.made_by("register"),
                sizes_of("msme", SHAPE))  # fmt: skip
        declare(root, t2.writes)
        root["msme/extent"][:with_msme] = np.tile(SHAPE[1:], (with_msme, 1))
        root["msme/affine"][:with_msme] = np.tile(np.diag([3.5, 0.5, 0.5, 1.0]), (with_msme, 1, 1))
        root["msme/echo_time"][:with_msme] = np.tile([10.0, 20.0], (with_msme, 1))
        for row in range(0, with_msme, with_msme // 64):
            root["msme/image"][row] = rng.random(SHAPE)
        for step in ("ingest_msme", "register"):
            group = declare_status(root, step, count)
            group["state"][:with_msme] = STATE["done"]
            group["run"][:with_msme] = 1
        declare_status(root, "t2", count)
        Change(runs={1: {"step": "import", "parameters": {}, "version": "1"}})(session)

    commit(lake.repo, build, f"Add {count} exams")
    return lake.refresh()
