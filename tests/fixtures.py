"""Small lakes made of arrays, for tests that need no DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.lake import Lake, create_lake
from qmri_lake.storage import commit, open_root
from qmri_lake.variables import REGISTRY, sizes_of
from qmri_lake.writing import Change, append_exams, declare

ECHO_TIME = np.arange(10.0, 80.0, 10.0)


def keys(count: int) -> pd.DataFrame:
    """Exams of count patients over visits: right and left knees in turn."""
    index = np.arange(count)
    return pd.DataFrame(
        {
            "patient": 9000001 + index // 4,
            "timepoint": np.array([0, 24])[(index // 2) % 2],
            "knee": np.array(["right", "left"], dtype=object)[index % 2],
        }
    )


def msme_signal(row: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Signal (echo, slice, row, column) and the T2 [ms] that it decays with."""
    rng = np.random.default_rng(row)
    t2 = rng.uniform(20, 80, shape)
    signal = 1000 * np.exp(-ECHO_TIME[:, None, None, None] / t2)
    return signal.astype(np.float32), t2


def array_lake(path: Path, count: int = 6, shape: tuple[int, int, int] = (5, 12, 10)) -> Lake:
    """A lake with `count` msme exams, the odd ones a slice smaller than the arrays."""
    lake = create_lake(str(path))
    variables = REGISTRY.made_by("ingest_msme") + REGISTRY.made_by("register")

    def build(session):
        append_exams(session, keys(count))
        root = open_root(session.store, "r+")
        declare(root, variables, sizes_of("msme", (len(ECHO_TIME), *shape)))
        change = Change(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
        for row in range(count):
            extent = (shape[0] - row % 2, *shape[1:])
            signal, _ = msme_signal(row, extent)
            root["msme/image"][row, :, : extent[0]] = signal
            labels = np.zeros(extent, np.uint8)
            labels[:, 2:6] = 1
            labels[:, 6:8] = 2
            root["msme/cartilage"][row, : extent[0]] = labels
            change.set_small("msme/extent", row, np.array(extent))
            change.set_small("msme/echo_time", row, ECHO_TIME)
            change.set_small("msme/affine", row, np.diag([3.5, 0.5, 0.5, 1.0]))
            for step in ("ingest_msme", "register"):
                change.set_state(step, row, "done", 1)
        change(session)

    commit(lake.repo, build, "Add exams")
    return lake.refresh()
