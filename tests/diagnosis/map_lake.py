"""A lake with different maps for each exam, bone and biomarker."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qmri_lake.lake import Lake
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from tests.fixtures import add_maps, array_lake

SIZE = 224
NO_T2, ABSENT = 2, 5
"""Rows without T2 on the femur, and without a femur."""


def maps_of(row: int) -> np.ndarray:
    """Return (bone, biomarker, azimuth, polar) with no value beyond a rim that differs by exam."""
    rng = np.random.default_rng(row)
    maps = rng.uniform(0.5, 1.0, (3, 3, SIZE, SIZE)).astype(np.float32)
    maps *= np.array([50, 4, 80], np.float32)[:, None, None]
    maps[..., 150 + row :] = np.nan
    return maps


def make_map_lake(
    path: Path, count: int = 13, *, spoiled: bool = False, factor: float = 1.0
) -> Lake:
    """A lake of maps only; `spoiled` removes T2 of one exam and the femur of another."""
    lake = add_maps(array_lake(path, count))

    def build(session):
        root = open_root(session.store, "r+")
        change = Transaction(runs={4: {"step": "sphere", "parameters": {}, "version": "1"}})
        for row in range(count):
            maps, status = factor * maps_of(row), np.zeros(3, np.uint8)
            if spoiled and row == NO_T2:
                maps[2, 2] = np.nan
            if spoiled and row == ABSENT:
                maps[2], status[2] = np.nan, 3
            root["sphere/map"][row] = maps
            change.set_small("sphere/map_status", row, status)
            change.set_state("sphere", row, "done", 4)
        change(session)

    commit(lake.repo, build, "Add maps")
    return lake.refresh()


def labels_of(lake: Lake) -> dict[str, int]:
    """Every third exam is a case."""
    return {str(exam): int(row % 3 == 0) for row, exam in enumerate(lake.exams["exam"])}
