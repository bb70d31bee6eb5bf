"""Who made the masks of a lake: the networks that are named, others, or somebody elsewhere."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmri_lake.segmentation.ensemble import DTYPES
from qmri_lake.segmentation.network import find_networks
from qmri_lake.segmentation.recipes import MASK_NAMES
from qmri_lake.segmentation.training import unseen_exams
from qmri_lake.status import read_runs, read_status

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["Unseen", "find_unseen", "other_makers"]


@dataclass(frozen=True, slots=True)
class Unseen:
    """Exams that none of some networks has learned from."""

    exams: tuple[str, ...]
    """Their keys."""
    networks: frozenset[str]
    """Identities of the networks, as a run records them, in whatever they compute."""


def find_unseen(models: Sequence[str | os.PathLike[str]]) -> dict[str, Unseen]:
    """Return what folders of ensembles can be judged by.

    Parameters
    ----------
    models : sequence of paths
        Ensembles, as ``qmri-lake train`` writes them. Of several that segment the same: the exams
        that none of them has learned from.

    Returns
    -------
    dict
        By ``"bone"`` and ``"cartilage"``.

    Raises
    ------
    InputError
        No ``split.json`` in a folder, or one that can't be read.
    NotFoundError
        No network in it.
    """
    found: dict[str, Unseen] = {}
    for folder in models:
        task, keys = unseen_exams(folder)
        kind = MASK_NAMES[task]
        before = found.get(kind, Unseen(tuple(keys), frozenset()))
        networks = {
            replace(network, dtype=dtype).identity
            for network in find_networks(folder, task=task)
            for dtype in DTYPES.values()
        }
        found[kind] = Unseen(
            tuple(key for key in keys if key in before.exams), before.networks | networks
        )
    return found


def other_makers(
    lake: Lake, cohort: Cohort, kind: str, networks: frozenset[str]
) -> Mapping[str, int]:
    """Count the masks that other networks than these took part in, or that were imported.

    Parameters
    ----------
    lake : Lake
    cohort : Cohort
        Exams that have the mask.
    kind : {"bone", "cartilage"}
    networks : set of str
        Identities, of `find_unseen`.

    Returns
    -------
    mapping of str to int
        Masks by who made them: ``"imported"``, ``"by other networks"``; empty where these networks
        made all, or some of these alone.
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
