"""600 knees in one lake: 540 by their truth, 60 from DICOM through networks and fits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import qmri_lake as ql
from qmri_lake.cli._demo_timing import cpu_minutes
from qmri_lake.lake.cohort import Cohort
from qmri_lake.phantom import exams as exams_of
from qmri_lake.phantom import write_archive
from qmri_lake.phantom.anatomy import TROCHLEA_DEGREES, Anatomy, femur, patella, tibia
from qmri_lake.phantom.exam_truth import set_up
from qmri_lake.phantom.pose import femur_rays
from qmri_lake.phantom.surface import _patch_area, _plate
from qmri_lake.segmentation.training.ensemble import train_ensemble

SHAPE = (64, 144, 144)
SEED = 6
"""Of the population; recipes were chosen on others."""
TRUE, DELIVERED = 540, 60
"""Exams: knees of a patient at a visit, right and left; each has a KL grade."""
FIRST_TRUE = 10_000
"""Index of the first patient made from the truth; none of them is also ingested from DICOM."""
BY_TRUTH, FROM_DICOM = "made_from == 'truth'", "made_from == 'delivered'"


def build(folder: Path, *, cluster: Any = None) -> ql.Lake:
    """Make the lake, or continue it; CPU-minutes of its parts are in ``cpu.json``."""
    with counted(folder, "truth"):
        lake = ql.phantom.add_true_exams(
            str(folder / "oai.lake"),
            exams=TRUE,
            shape=SHAPE,
            seed=SEED,
            first_patient=FIRST_TRUE,
            cluster=cluster,
        ).lake
    with counted(folder, "maps of true masks"):
        _run(lake, "sphere", BY_TRUTH, with_t2=False, cluster=cluster)
    with counted(folder, "networks"):
        models = _networks(folder / "networks")
    with counted(folder, "DICOM to regions"):
        archive = write_archive(folder / "archive", exams=DELIVERED, shape=SHAPE, seed=SEED)
        ql.ingest(archive.path, lake)
        for task in ("bones", "cartilage"):
            _run(lake, f"segment_{task}", FROM_DICOM, models=str(models / task), cluster=cluster)
        for step in ("check_masks", "register", "t2"):
            _run(lake, step, FROM_DICOM, cluster=cluster)
        for step, product in (("sphere", "sphere/map"), ("region", "region/thickness")):
            _run(lake, step, FROM_DICOM, cluster=cluster)
            # A left knee may have no multi-echo series, so no T2 to be mapped.
            delivered = lake.cohort(FROM_DICOM).exams["exam"]
            mapped = lake.cohort(FROM_DICOM).require(product).exams["exam"]
            rest = lake.cohort().of_exams(sorted(set(delivered) - set(mapped)), "without T2")
            _run(lake, step, rest, with_t2=False, cluster=cluster)
    return lake


def chosen(lake: ql.Lake) -> Cohort:
    """Return the 600 exams."""
    return lake.cohort().require("sphere/map")


def true_thickness(cohort: Cohort) -> pd.DataFrame:
    """Return the true mean thickness [mm] (exam, region), bared bone as 0.

    Of the functions that the knees are made of, over their articular surfaces: the same for knees
    that have been through networks and for those that have not.
    """
    known = {
        exam.key: exam
        for exam in (
            *exams_of(TRUE, SEED, first_patient=FIRST_TRUE),
            *exams_of(DELIVERED, SEED),
        )
    }
    keys = [str(key) for key in cohort.exams["exam"]]
    rows = []
    for key in keys:
        at = set_up(known[key], SHAPE)
        row = {}
        for name, points, bone, keep in _surfaces(at.anatomy):
            found = bone(*points, at.anatomy)
            inside = keep & (np.nan_to_num(found.articular, nan=-1) > 0.4)
            area = _patch_area(*points)
            inside &= np.isfinite(area)
            row[name] = at.placement.scale * np.average(
                found.cartilage[inside], weights=area[inside]
            )
        rows.append(row)
    return pd.DataFrame(rows, index=keys)


def _surfaces(a: Anatomy) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield regions with points (mm) of their bone's surface, as `phantom.surface.measure` does."""
    x, angle = np.meshgrid(
        np.arange(-33, 34, 1.25, dtype=np.float32),
        np.arange(-114, 122, 2.5, dtype=np.float32),
        indexing="ij",
    )
    points, front = femur_rays(a, x, angle), angle > TROCHLEA_DEGREES
    yield "trochlea", points, femur, front
    yield "femur_medial", points, femur, ~front & (x > 0)
    yield "femur_lateral", points, femur, ~front & (x <= 0)
    u, v = np.meshgrid(
        np.arange(-36, 36, 1.25, dtype=np.float32),
        np.arange(-14, 31, 1.25, dtype=np.float32),
        indexing="ij",
    )
    points = _plate(a, u, v, 2)
    yield "tibia_medial", points, tibia, u > -1
    yield "tibia_lateral", points, tibia, u <= -1
    u, v = np.meshgrid(
        np.arange(-24, 25, 1.25, dtype=np.float32),
        np.arange(-18, 21, 1.25, dtype=np.float32),
        indexing="ij",
    )
    yield "patella", _plate(a, u, v, 1), patella, np.ones(u.shape, bool)


def _run(lake: ql.Lake, step: str, which: str | Cohort, **options: Any) -> None:
    done = lake.run(step, which, **options)
    assert not done.failed, str(done)


def _networks(folder: Path) -> Path:
    """Train a network for bones and one for cartilage on another population, as the demo does."""
    archive = write_archive(folder / "archive", exams=24, shape=SHAPE, seed=0)
    lake = ql.ingest(archive.path, str(folder / "train.lake")).lake
    ql.ingest_masks(archive.truth, lake, labels="qmri-lake")
    for task in ("bones", "cartilage"):
        train_ensemble(
            lake, task, preset="small", members=1, out=folder / "models" / task, resume=True
        )
    return folder / "models"


@contextmanager
def counted(folder: Path, part: str) -> Iterator[None]:
    """Add the CPU-minutes of what is done inside to ``cpu.json``."""
    before = cpu_minutes()
    try:
        yield
    finally:
        folder.mkdir(parents=True, exist_ok=True)
        known = spent(folder)
        known[part] = known.get(part, 0.0) + cpu_minutes() - before
        (folder / "cpu.json").write_text(json.dumps(known), encoding="utf-8")


def spent(folder: Path) -> dict[str, float]:
    """Return the CPU-minutes of each part."""
    file = folder / "cpu.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
