"""Small lakes to export: oblique volumes, labels, T2 in two variants, maps on spheres, a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import qmri_lake as ql
from qmri_lake.execution.step import load_steps
from qmri_lake.lake.lake import create_lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from qmri_lake.surface.spherical_grid import SIZE

Arrays = Mapping[str, np.ndarray]

RADIUS = 20.0
CENTRES = np.array([[5.0, -3.0, 40.0], [1.0, 2.0, -30.0], [0.5, 0.25, 0.125]])
"""Centres of the bones of every exam, LPS mm: patella, tibia, femur."""
ECHOES = np.array([10.0, 20.0, 31.5])


def oblique(spacing: Sequence[float], origin: Sequence[float], degrees: float = 12.0) -> np.ndarray:
    """An affine of sagittal slices (slice, row, column) that are turned about two axes."""
    a, b = np.deg2rad([degrees, 0.6 * degrees])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    sagittal = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # columns: slice, row, column
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ sagittal * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def build_lake(
    path: Path,
    exams: Sequence[tuple[int, int, str]],
    arrays: Sequence[Arrays],
    runs: Mapping[int, Mapping[str, object]],
    sizes: Mapping[str, tuple[int, ...]],
    made_by: Mapping[str, int],
) -> ql.Lake:
    """A lake with these arrays by path, for each exam; an absent one stays pending.

    `made_by` is the number of the run of each step.
    """
    load_steps()
    lake = create_lake(str(path))
    paths = list(dict.fromkeys(p for mine in arrays for p in mine))

    def build(session):
        append_exams(session, pd.DataFrame(exams, columns=["patient", "timepoint", "knee"]))
        root = open_root(session.store, "r+")
        plain = {p: REGISTRY[p.partition("__")[0]] for p in paths}
        for p, variable in plain.items():
            group = variable.group
            size = sizes_of(group, sizes[group]) if group in sizes else dict(variable.sizes)
            declare(root, [variable], size, p.partition("__")[2])
        change = Transaction(runs={n: dict(record) for n, record in runs.items()})
        for row, mine in enumerate(arrays):
            for p, values in mine.items():
                variable = plain[p]
                if variable.bulk:
                    root[p][(row, *(slice(0, n) for n in values.shape))] = values
                elif variable.dims:
                    change.set_small(p, row, values)
                else:
                    change.set_column(p, [row], np.asarray([values]))
                step = variable.step + ("__" + p.partition("__")[2] if "__" in p else "")
                if step in made_by:
                    change.set_state(step, row, "done", made_by[step])
        change(session)

    commit(lake.repo, build, "Add exams")
    return ql.open_lake(str(path))


RUNS = {
    1: {"step": "ingest_msme", "parameters": {}, "version": "1", "code": "qmri_lake test"},
    2: {
        "step": "segment_cartilage",
        "parameters": {"models": ["net1"]},
        "version": "1",
        "learned_from": {"patients": [1234567], "unknown": []},
    },
    3: {"step": "t2", "parameters": {"within": "all"}, "version": "2", "code": "qmri_lake test"},
    4: {"step": "sphere", "parameters": {}, "version": "1"},
    5: {"step": "ingest_clinical", "parameters": {}, "version": "1"},
}
_MADE_BY = {
    "ingest_msme": 1,
    "ingest_dess": 1,
    "segment_bones": 2,
    "segment_cartilage": 2,
    "t2": 3,
    "t2__epg": 3,
    "sphere": 4,
    "region": 4,
    "ingest_clinical": 5,
}
EXAMS = [(9000001, 0, "right"), (9000001, 0, "left"), (9000002, 24, "right")]
KEYS = ["9000001-000m-right", "9000001-000m-left", "9000002-024m-right"]


def small_lake(path: Path) -> ql.Lake:
    """Three exams; the second is smaller, and the third has no labels, no T2 and no maps."""
    arrays: list[dict[str, np.ndarray]] = []
    for row in range(3):
        rng = np.random.default_rng(row)
        shape, fine = ((5, 12, 10), (6, 16, 9)) if row != 1 else ((4, 11, 8), (5, 14, 7))
        mine: dict[str, np.ndarray] = {
            "msme/image": rng.normal(100, 20, (3, *shape)).astype(np.float32),
            "msme/affine": oblique((3.5, 0.5, 0.6), (-40.1 - row, 17.3, 22.2)),
            "msme/extent": np.array(shape),
            "msme/echo_time": ECHOES,
            "msme/series_uid": np.array(f"1.2.3.{row}", dtype=object),
            "dess/image": rng.normal(50, 5, fine).astype(np.float32),
            "dess/affine": oblique((0.7, 0.4, 0.45), (-31.0, 11.5, 9.25 + row), -7.0),
            "dess/extent": np.array(fine),
            "clinical/kl": np.float32(row + 1),
            "clinical/bmi": np.float32([27.4, np.nan, 31.1][row]),
            "clinical/sex": np.uint8(row % 2 + 1),
            "clinical/synthetic": np.uint8(1 if row < 2 else 255),
        }
        if row < 2:
            labels = np.zeros(fine, np.uint8)
            labels[1:3, 2:6, 1:5] = 1
            labels[3, 8:12, 2:6] = 4
            labels[0, 0, 0] = 255
            bone = np.zeros(fine, np.uint8)
            bone[2:4, 9:13, 1:6] = 2
            t2 = rng.uniform(20, 80, shape).astype(np.float32)
            t2[0] = np.nan
            mine |= {
                "dess/cartilage": labels,
                "dess/bone": bone,
                "msme/t2": t2,
                "msme/t2__epg": t2 + 1,
                "msme/t2_status": np.where(np.isnan(t2), 255, 0).astype(np.uint8),
                **_maps(rng),
                "region/thickness": rng.uniform(1, 3, 22).astype(np.float32),
                "region/volume_n": np.arange(22, dtype=np.int32) - 1,
            }
        arrays.append(mine)
    sizes = {"msme": (3, 5, 12, 10), "dess": (6, 16, 9)}
    return build_lake(path, EXAMS, arrays, RUNS, sizes, _MADE_BY)


def _maps(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Maps of three bones that are parts of spheres, without bone in some pixels."""
    maps = np.full((3, 3, SIZE, SIZE), np.nan, np.float32)
    maps[:, 0, :, :200] = RADIUS
    maps[:, 1, :, :150] = rng.uniform(1, 3, (3, SIZE, 150))
    maps[:, 2, :, :100] = rng.uniform(20, 60, (3, SIZE, 100))
    status = np.full((3, SIZE, SIZE), 1, np.uint8)
    status[:, :, 150:] = 3
    return {
        "sphere/map": maps,
        "sphere/surface_status": status,
        "sphere/centre": CENTRES,
    }
