"""Damaged DICOM series are read as they were, listed or refused; never read as something else."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qmri_lake.oai.dicom import Volume
from qmri_lake.oai.inventory import Inventory, inventory, read_series
from tests.conftest import Judge
from tests.fuzz.dicom_mutations import (
    FOLDER,
    MUTATIONS,
    DamagedSeries,
    Files,
    damaged_series,
    series,
)
from tests.fuzz.fuzzing import Outcome, few_or_many, judge_tally, read_damaged


def write_files(root: str, files: Files) -> Path:
    folder = Path(root, FOLDER)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Path(root)


@functools.cache
def undamaged(group: str) -> tuple[str, Volume]:
    with TemporaryDirectory() as root:
        found = inventory(write_files(root, series(group)))
        assert found.problems == ()
        (one,) = found.series
        assert one.group == group
        return one.exam, read_series(one)


def read(damage: DamagedSeries) -> Outcome:
    with TemporaryDirectory() as root:
        return compare(inventory(write_files(root, damage.files)), damage.group)


def compare(found: Inventory, group: str) -> Outcome:
    """Compare the content of a delivery with that of the undamaged series."""
    exam, volume = undamaged(group)
    if not found.series:
        if found.problems:
            return Outcome.LISTED
        return Outcome.IGNORED if found.ignored else Outcome.SILENT
    same = len(found.series) == 1
    for one in found.series:
        read_now = read_series(one)
        same = same and (one.exam, one.group) == (exam, group) and is_same(read_now, volume)
    if same:
        return Outcome.SAME
    return Outcome.LISTED if found.problems else Outcome.SILENT


def is_same(one: Volume, other: Volume) -> bool:
    """Whether a volume is that of the undamaged series; an echo time may be unknown in a DESS."""
    unknown = len(one.echo_time) == 1 and np.isnan(one.echo_time[0])
    return (
        np.array_equal(one.image, other.image)
        and np.allclose(one.affine, other.affine, atol=1e-3)
        and (unknown or np.allclose(one.echo_time, other.echo_time, atol=1e-3))
    )


@few_or_many(250, 10_000)
def test_inventory__damaged_series(count: int, judge: Judge) -> None:
    tally = read_damaged(damaged_series(), read, count)
    judge_tally(judge, f"{count:,} damaged DICOM series, {len(MUTATIONS)} kinds of damage", tally)
