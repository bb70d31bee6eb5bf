"""A small lake whose masks differ a little from their references."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import qmri_lake as ql
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from tests.fixtures import keys

SHAPE = (14, 40, 36)
SPACING = (0.75, 0.375, 0.375)
PRODUCTS = {
    "bone": "segment_bones",
    "cartilage": "segment_cartilage",
    "reference_bone": "import_reference_bone",
    "reference_cartilage": "import_reference_cartilage",
}


def _balls(count: int, shift: float) -> np.ndarray:
    """Labelled ellipsoids in a row from top to bottom."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * SPACING
    labels = np.zeros(SHAPE, np.uint8)
    for k in range(count):
        centre = np.array([5.0, 2.2 + 3.6 * k, 6.5 + shift])
        labels[(((grid - centre) / (4, 1.7, 4)) ** 2).sum(-1) < 1] = k + 1
    return labels


def masks(row: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(mask, reference) of an exam; the error of the mask increases from exam to exam."""
    count = 3 if kind == "bone" else 4
    extent = SHAPE[0] - row % 2
    return _balls(count, 0.3 + 0.4 * row)[:extent], _balls(count, 0.0)[:extent]


def lake_of(
    path: Path,
    count: int = 5,
    kinds: tuple[str, ...] = ("bone", "cartilage"),
    *,
    each: int = 4,
    with_masks: bool = True,
) -> ql.Lake:
    """A lake of DESS images, `each` per patient; the last exam has masks but no reference."""
    sources = ("", "reference_") if with_masks else ("reference_",)
    lake = ql.create_lake(str(path))
    steps = ["ingest_dess", *(PRODUCTS[f"{a}{b}"] for a in sources for b in kinds)]

    def build(session):
        patient = 9000001 + np.arange(count) // each
        append_exams(session, keys(count).assign(patient=patient))
        root = open_root(session.store, "r+")
        variables = [v for step in steps for v in REGISTRY.variables_of(step)]
        declare(root, variables, sizes_of("dess", SHAPE))
        change = Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
        for row in range(count):
            extent = (SHAPE[0] - row % 2, *SHAPE[1:])
            noise = np.random.default_rng(row).uniform(0, 1, extent)
            root["dess/image"][row, : extent[0]] = (noise + 2).astype(np.float32)
            change.set_small("dess/extent", row, np.array(extent))
            affine = np.eye(4)
            affine[:3, :3] = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ np.diag(SPACING)
            change.set_small("dess/affine", row, affine)
            change.set_state("ingest_dess", row, "done", 1)
            for kind in kinds:
                for source, labels in zip(("", "reference_"), masks(row, kind), strict=True):
                    name = f"{source}{kind}"
                    if source not in sources or (row == count - 1 and source):
                        continue
                    root[f"dess/{name}"][row, : extent[0]] = labels
                    change.set_state(PRODUCTS[name], row, "done", 1)
        change(session)

    commit(lake.repo, build, "Add exams")
    return lake.refresh()
