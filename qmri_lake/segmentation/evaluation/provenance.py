"""Origin of the masks of a lake: given networks, other networks, or an import."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmri_lake.segmentation.models.members import DTYPES
from qmri_lake.segmentation.models.network import find_networks
from qmri_lake.segmentation.models.recipes import MASK_NAMES
from qmri_lake.segmentation.training.ensemble import held_out_exams, used_in_training
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import read_status

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["HeldOut", "count_other_sources", "find_held_out"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Exams held out from the training of some networks."""

    exams: tuple[str, ...]
    """Exam keys."""
    used: frozenset[str]
    """Keys of the exams on which a network was trained or validated."""
    networks: frozenset[str]
    """Identities of the networks as recorded by a run; each network has one for each dtype."""


def find_held_out(models: Sequence[str | os.PathLike[str]]) -> dict[str, HeldOut]:
    """Return the exams on which ensembles can be evaluated.

    Parameters
    ----------
    models : sequence of paths
        Folders of ensembles, written by ``qmri-lake train``. If several ensembles have the same
        task, only exams that are held out from all of them are returned.

    Returns
    -------
    dict
        Held-out exams and networks, with the keys ``"bone"`` and ``"cartilage"``.

    Raises
    ------
    InputError
        If a folder has no ``split.json``, or if this file cannot be read.
    NotFoundError
        If a folder has no network.
    """
    held_out: dict[str, HeldOut] = {}
    for folder in models:
        task, keys = held_out_exams(folder)
        kind = MASK_NAMES[task]
        before = held_out.get(kind, HeldOut(tuple(keys), frozenset(), frozenset()))
        used = before.used | used_in_training(folder)
        networks = {
            replace(network, dtype=dtype).identity
            for network in find_networks(folder, task=task)
            for dtype in DTYPES.values()
        }
        held_out[kind] = HeldOut(
            tuple(key for key in keys if key in before.exams and key not in used),
            used,
            before.networks | networks,
        )
    return held_out


def count_other_sources(
    lake: Lake, cohort: Cohort, kind: str, networks: frozenset[str]
) -> Mapping[str, int]:
    """Count the masks that were imported, or computed with other networks.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort
        Exams that have the mask.
    kind : {"bone", "cartilage"}
    networks : set of str
        Identities of the networks, from `find_held_out`.

    Returns
    -------
    mapping of str to int
        Number of masks by origin: ``"imported"``, ``"by other networks"``. Empty if all masks were
        computed by these networks or a subset of them.
    """
    step = {name: f"segment_{task}" for task, name in MASK_NAMES.items()}[kind]
    runs = read_runs(lake.root)
    counts: Counter[str] = Counter()
    for number in read_status(lake.root, step, len(lake)).run[cohort.rows].tolist():
        record = runs[number]
        if record["step"] == "import":
            counts["imported"] += 1
        elif not set(record["parameters"]["models"]) <= networks:
            counts["by other networks"] += 1
    return counts
