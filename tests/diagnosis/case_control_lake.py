"""A lake of maps of cases and controls, with KL grades, answers about pain, and missing values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.execution.step import load_steps
from qmri_lake.lake import Lake, create_lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare, write_table

EXAMS = 60
NO_FEMUR, NO_KL, NO_MAPS, NO_T2 = 3, (10, 11), 20, 31
"""Rows with missing values; each patient has two visits of the right knee."""


def make_case_control_lake(path: Path, exams: int = EXAMS) -> Lake:
    """Two visits of each patient; the cartilage of cases is thinner on one half of the map."""
    load_steps()
    lake = create_lake(str(path))
    index = np.arange(exams)
    keys = pd.DataFrame(
        {
            "patient": 9000001 + index // 2,
            "timepoint": 24 * (index % 2),
            "knee": np.array(["right"] * exams, dtype=object),
        }
    )
    rng = np.random.default_rng(0)
    ill = np.repeat(rng.permutation(exams // 2) % 2, 2).astype(bool)
    kl = np.where(ill, 3.0, 0.0)
    kl[list(NO_KL)] = np.nan

    def build(session):
        append_exams(session, keys)
        root = open_root(session.store, "r+")
        made = REGISTRY.group("sphere")
        declare(root, made, {dim: n for v in made for dim, n in v.sizes.items()})
        declare(root, REGISTRY.group("clinical"))
        declare(root, REGISTRY.group("visit"))
        change = Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
        for row in range(exams):
            maps = np.full((3, 3, 224, 224), np.nan, np.float32)
            status = np.zeros(3, np.uint8)
            level = np.array([30.0, 2.0, 50.0])[:, None, None]
            maps[..., :180] = level * rng.uniform(0.95, 1.05, (3, 3, 1, 1))
            if ill[row]:
                maps[:, 1, :112, :180] *= 0.6
            if row == NO_FEMUR:
                maps[2], status[2] = np.nan, 3
            if row == NO_MAPS:
                maps[:] = np.nan
            if row == NO_T2:
                maps[:, 2] = np.nan
            root["sphere/map"][row] = maps
            root["sphere/surface_status"][row] = np.where(np.isfinite(maps[:, 1]), 1, 3)
            change.set_small("sphere/map_status", row, status)
            for step in ("sphere", "ingest_clinical"):
                change.set_state(step, row, "done", 1)
        columns = {
            "kl": kl,
            "age": rng.normal(60, 8, exams),
            "bmi": rng.normal(28, 3, exams),
            "sex": rng.integers(1, 3, exams),
        }
        for name, values in columns.items():
            change.set_column(f"clinical/{name}", range(exams), values)
        change(session)
        answers = {"pain_months_12m": np.where(ill, 9.0, 0.0), "pain_any_12m": ill.astype(np.uint8)}
        missing = {v.name: v.fill for v in REGISTRY.group("visit") if v.name not in keys}
        write_table(root, "visit", keys.assign(**{**missing, **answers}))

    commit(lake.repo, build, "Add exams")
    return lake.refresh()
