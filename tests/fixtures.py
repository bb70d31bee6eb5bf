"""Small lakes made of arrays, for tests that need no DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.lake import Lake, create_lake
from qmri_lake.storage import commit, open_root
from qmri_lake.variables import REGISTRY, sizes_of
from qmri_lake.writing import Change, append_exams, declare, write_table

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


def add_clinical(lake: Lake, **columns: object) -> Lake:
    """Add group clinical with these columns, a value an exam: NaN, or 255 for a flag, is missing.

    Those that are not given are missing everywhere.
    """
    variables = REGISTRY.group("clinical")

    def build(session):
        declare(open_root(session.store, "r+"), variables)
        change = Change(runs={2: {"step": "import", "parameters": {}, "version": "1"}})
        for name, values in columns.items():
            change.set_column(f"clinical/{name}", range(len(lake)), np.asarray(values))
        for row in range(len(lake)):
            change.set_state("ingest_clinical", row, "done", 2)
        change(session)

    commit(lake.repo, build, "Add clinical columns")
    return lake.refresh()


def add_visits(lake: Lake) -> Lake:
    """Add group visit: twice the visits of the lake's exams, the second half of another patient."""

    def build(session):
        root = open_root(session.store, "r+")
        declare(root, REGISTRY.group("visit"))
        keys = lake.exams[["patient", "timepoint", "knee"]]
        table = pd.concat([keys, keys.assign(patient=9999999)], ignore_index=True)
        missing = {v.name: np.nan for v in REGISTRY.group("visit") if v.name not in table}
        write_table(root, "visit", table.assign(**missing))

    commit(lake.repo, build, "Add visits")
    return lake.refresh()


def add_dess(lake: Lake, shape: tuple[int, int, int] = (6, 16, 8)) -> Lake:
    """Add DESS images, all of full extent; the last exam has none."""
    variables = REGISTRY.made_by("ingest_dess") + REGISTRY.made_by("segment_cartilage")

    def build(session):
        root = open_root(session.store, "r+")
        declare(root, variables, sizes_of("dess", shape))
        change = Change(runs={3: {"step": "import", "parameters": {}, "version": "1"}})
        for row in range(len(lake) - 1):
            root["dess/image"][row] = np.full(shape, row, np.float32)
            change.set_small("dess/extent", row, np.array(shape))
            change.set_small("dess/affine", row, np.diag([0.7, 0.4, 0.4, 1.0]))
            change.set_state("ingest_dess", row, "done", 3)
        change(session)

    commit(lake.repo, build, "Add DESS images")
    return lake.refresh()
