"""Small lakes made of arrays, for tests that need no DICOM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from qmri_lake.execution.step import load_steps
from qmri_lake.lake.lake import Lake, create_lake
from qmri_lake.phantom.exam_truth import Truth
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare, write_table

ECHO_TIME = np.arange(10.0, 80.0, 10.0)


@contextmanager
def interruptible() -> Iterator[None]:
    """Start processes that SIGINT ends, also where this one ignores it, as a background job does.

    An ignored signal is inherited, and Python then leaves it alone; a handler becomes the default.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    variables = REGISTRY.variables_of("ingest_msme") + REGISTRY.variables_of("register")

    def build(session):
        append_exams(session, keys(count))
        root = open_root(session.store, "r+")
        declare(root, variables, sizes_of("msme", (len(ECHO_TIME), *shape)))
        change = Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
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
        change = Transaction(runs={2: {"step": "import", "parameters": {}, "version": "1"}})
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
    variables = REGISTRY.variables_of("ingest_dess") + REGISTRY.variables_of("segment_cartilage")

    def build(session):
        root = open_root(session.store, "r+")
        declare(root, variables, sizes_of("dess", shape))
        change = Transaction(runs={3: {"step": "import", "parameters": {}, "version": "1"}})
        for row in range(len(lake) - 1):
            root["dess/image"][row] = np.full(shape, row, np.float32)
            change.set_small("dess/extent", row, np.array(shape))
            change.set_small("dess/affine", row, np.diag([0.7, 0.4, 0.4, 1.0]))
            change.set_state("ingest_dess", row, "done", 3)
        change(session)

    commit(lake.repo, build, "Add DESS images")
    return lake.refresh()


def add_maps(lake: Lake) -> Lake:
    """Declare the groups that steps make after T2, without a value."""
    load_steps()

    def build(session):
        root = open_root(session.store, "r+")
        for group in ("sphere", "region", "prediction"):
            if made := REGISTRY.group(group):
                declare(root, made, {dim: n for v in made for dim, n in v.sizes.items()})

    commit(lake.repo, build, "Add maps")
    return lake.refresh()


def knee_lake(
    path: Path,
    knees: Sequence[Truth],
    change_exam: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> Lake:
    """A lake with the true masks, registration and T2 in cartilage of synthetic knees.

    `change_exam` may spoil the arrays of an exam, by path; one that it removes is not there.
    """
    steps = ("segment_bones", "segment_cartilage", "register", "t2")
    load_steps()
    lake = create_lake(str(path))
    largest = [
        np.max([k.dess_bone.shape for k in knees], axis=0),
        np.max([k.msme_cartilage.shape for k in knees], axis=0),
    ]

    def build(session):
        rows = [(k.exam.patient.number, k.exam.visit.month, k.exam.side) for k in knees]
        append_exams(session, pd.DataFrame(rows, columns=["patient", "timepoint", "knee"]))
        root = open_root(session.store, "r+")
        for group, size in zip(("dess", "msme"), largest, strict=True):
            shape = tuple(map(int, size)) if group == "dess" else (7, *map(int, size))
            for step in (f"ingest_{group}", *steps):
                made = [v for v in REGISTRY.variables_of(step) if v.group == group]
                if made:
                    declare(root, made, sizes_of(group, shape))
        change = Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
        for row, knee in enumerate(knees):
            t2 = np.where(np.isin(knee.msme_cartilage, (1, 2, 3)), knee.t2, np.nan)
            arrays = {
                "dess/bone": knee.dess_bone,
                "dess/cartilage": knee.dess_cartilage,
                "dess/affine": knee.dess_affine,
                "dess/extent": np.array(knee.dess_bone.shape),
                "msme/cartilage": knee.msme_cartilage,
                "msme/t2": t2.astype(np.float32),
                "msme/affine": knee.msme_affine,
                "msme/extent": np.array(t2.shape),
                "msme/echo_time": ECHO_TIME,
                "msme/dess_to_msme": knee.dess_to_msme,
            }
            if change_exam is not None:
                change_exam(row, arrays)
            for name, values in arrays.items():
                if root[name].dtype.kind == "f" and values.ndim < 3:
                    change.set_small(name, row, values)
                elif name.endswith("extent"):
                    change.set_small(name, row, values)
                else:
                    root[name][(row, *(slice(0, n) for n in values.shape))] = values
            made_by = {"ingest_dess": "dess/affine", "ingest_msme": "msme/affine"}
            made_by |= dict(
                zip(
                    steps, ("dess/bone", "dess/cartilage", "msme/cartilage", "msme/t2"), strict=True
                )
            )
            for step, product in made_by.items():
                if product in arrays:
                    change.set_state(step, row, "done", 1)
        change(session)

    commit(lake.repo, build, "Add exams")
    return lake.refresh()
