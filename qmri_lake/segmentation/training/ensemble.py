"""Training of an ensemble: draw the splits of all members once, then train each member."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.lake.split_by_patient import SPLITS, Split, draw_members, split_by_patient
from qmri_lake.segmentation.models.network import Network
from qmri_lake.segmentation.models.recipes import Recipe, Task, recipes
from qmri_lake.segmentation.training.dataset import SampleSet
from qmri_lake.segmentation.training.loop import default_target
from qmri_lake.segmentation.training.preparation import check_classes, used_exams
from qmri_lake.segmentation.training.worker import (
    MemberTask,
    Message,
    train_member,
    train_on_cluster,
)
from qmri_lake.training.events import EpochDone
from qmri_lake.training.record import read_training_record

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake
    from qmri_lake.segmentation.training.worker import DaskCluster

__all__ = [
    "SPLIT",
    "TABLE",
    "first_sets",
    "held_out_exams",
    "train_ensemble",
    "used_in_training",
]

SPLIT = "split.json"
TABLE = "split.csv"


def train_ensemble(
    lake: Lake,
    task: str,
    *,  # public options, each independent of the others
    preset: str = "paper",
    out: str | os.PathLike[str],
    members: int | None = None,
    cohort: Cohort | str | None = None,
    target: str | None = None,
    seed: int = 0,
    resume: bool = False,
    epochs: int | None = None,
    progress: Callable[[EpochDone], None] | None = None,
    preparing: Callable[[str, int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
    allow_missing: bool = False,
    cluster: DaskCluster | None = None,
) -> list[Network]:
    """Train the networks of an ensemble, one after another, or in parallel on a cluster.

    Parameters
    ----------
    lake : Lake
    task : {"bones", "cartilage"}
    preset : {"paper", "small"}
        ``paper``: as published. ``small``: for training on a laptop.
    out : path
        Folder of the ensemble: ``split.json``, ``split.csv``, a folder for each member, such as
        ``bone_3d-1``, and the prepared volumes in ``cache``, which may be removed afterwards.
    members : int, optional
        Train only this number of members, the first in order. The others can be trained later with
        `resume`.
    cohort : Cohort or query, optional
        Exams to choose from; only exams with an image and labels are used. Default: all exams.
    target : str, optional
        Label array of group ``dess``; default ``reference_bone`` or ``reference_cartilage``.
    seed : int
        Random seed of the split. Member n, from 1, is trained with seed + n - 1.
    resume : bool
        Resume the training with its original splits, even if the lake has new exams. Finished
        members are skipped.
    epochs : int, optional
        Stop each member after this number of epochs at the latest.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.
    preparing : callable, optional
        Called while volumes are prepared, with the name of the member and the numbers of prepared
        exams and of all exams.
    announce : callable, optional
        Called with a message about the size of a member's prepared volumes, if it is at least 1 GB.
    allow_missing : bool
        Accept exams whose labels lack a tissue; see `train`.
    cluster : optional
        As in `qmri_lake.cluster`: each worker, or each GPU, trains one member at a time. Workers
        must be able to access `out` and the lake. Default: in this process. The number of CPU
        threads (all cores in this process, the threads of a worker on a cluster) may change the
        last digits of the weights.

    Returns
    -------
    list of Network
        In the order of the members.

    Raises
    ------
    InputError
        If there are too few patients with an image and labels, or for the reasons given in `train`.
        If the first member raises the error, only prepared volumes remain, since ``split.json`` is
        written after them.
    DiskFullError
        If the disk has too little space for the prepared volumes of a member, or becomes full.
    RunError
        Without `resume`, if the folder holds an ensemble. With `resume`, if the ensemble has
        another task, preset, seed, target or cohort. On a cluster, the error of a member is raised
        when all other members have ended.

    Notes
    -----
    Bones: one split by patient, for all members. Cartilage: one test set, and separate training and
    validation sets for each member. [paper]
    """
    folder = Path(out)
    named = _named(recipes(task, preset))
    chosen = list(named.items())[: len(recipes(task, preset, members))]
    labels = target or default_target(next(iter(named.values())).task)
    exams, path = lake.resolve(cohort), folder / SPLIT
    settings: JsonObject = {"task": task, "preset": preset, "seed": seed, "target": labels}
    settings["cohort"] = [row.condition for row in exams.rows_of_flow]
    if path.is_file():
        if not resume:
            raise RunError(
                f"the folder contains {SPLIT}",
                expected="an empty folder, or resume=True",
                where=folder.name,
                todo="Resume with --resume (resume=True), or train into another folder.",
            )
        splits = _read_split(path, settings)["members"]
    else:
        splits = _draw(_usable(exams, labels), task, list(named), seed)
        _check_later_members(lake, dict(chosen), splits, labels, allow_missing)

    def record_split() -> None:
        # Called when all exams have been checked: after an error, there is nothing to resume.
        if not path.is_file():
            _write_split(lake, folder, settings, splits)

    def listener(message: Message) -> None:
        if message["kind"] == "prepared" and message["done"] == message["total"]:
            record_split()
        _forward(message, progress, preparing, announce)

    tasks = [
        MemberTask(
            str(folder),
            name,
            recipe,
            splits[name],
            target=labels,
            seed=seed + number,
            resume=resume,
            epochs=epochs,
            allow_missing=allow_missing,
        )
        for number, (name, recipe) in enumerate(chosen)
    ]
    if cluster is not None:
        networks = train_on_cluster(lake, tasks, listener, cluster)
        record_split()
        return networks
    networks = []
    for member in tasks:
        networks.append(train_member(lake, member, listener))
        record_split()  # a finished member sends no message
    return networks


def _forward(
    message: Message,
    progress: Callable[[EpochDone], None] | None,
    preparing: Callable[[str, int, int], None] | None,
    announce: Callable[[str], None] | None,
) -> None:
    """Call the callback for a message."""
    if message["kind"] == "epoch":
        if progress is not None:
            progress(EpochDone(**message["done"]))
    elif message["kind"] == "announced":
        if announce is not None:
            announce(message["line"])
    elif preparing is not None:
        preparing(message["name"], message["done"], message["total"])


def held_out_exams(models: str | os.PathLike[str]) -> tuple[Task, list[str]]:
    """Return the task of an ensemble, and the held-out exams: the test set of its members.

    Parameters
    ----------
    models : path
        The folder of the ensemble.

    Raises
    ------
    InputError
        If the folder has no ``split.json``, or if this file cannot be read.
    """
    task, sets = first_sets(models)
    return task, list(sets["test"])


def first_sets(models: str | os.PathLike[str]) -> tuple[Task, dict[str, list[str]]]:
    """Return the task of an ensemble, and the exam keys in each set of its first member.

    Members for bones have the same sets; members for cartilage share only the test set.

    Raises
    ------
    InputError
        If the folder has no ``split.json``, or if this file cannot be read.
    """
    record = _split_of(models)
    first = next(iter(record["members"].values()))
    return record["task"], {name: list(first[name]) for name in SPLITS}


def used_in_training(models: str | os.PathLike[str]) -> set[str]:
    """Return the exams on which any member of an ensemble was trained or validated.

    Raises
    ------
    InputError
        If the folder has no ``split.json``, or if this file cannot be read.
    """
    members = _split_of(models)["members"].values()
    return {exam for sets in members for name in ("train", "validation") for exam in sets[name]}


def _split_of(models: str | os.PathLike[str]) -> JsonObject:
    """Read the split of an ensemble; raise an error if its folder has none."""
    path = Path(models) / SPLIT
    if not path.is_file():
        raise InputError(
            f"no {SPLIT}",
            expected="the folder of an ensemble, written by qmri-lake train",
            where=os.fspath(models),
            reason=Reason.UNREADABLE_FILE,
        )
    return _read_split(path)


def _named(members: list[Recipe]) -> dict[str, Recipe]:
    """Return the recipes by the name of the member, such as ``cartilage_2d-3``."""
    return {f"{recipe.name}-{n}": recipe for n, recipe in enumerate(members, start=1)}


def _usable(cohort: Cohort, target: str) -> Cohort:
    """Return the exams of a cohort that have an image and labels."""
    usable = cohort.require("dess/image", f"dess/{target}")
    if usable.patients < len(SPLITS):
        raise InputError(
            f"image and dess/{target} in {len(usable)} of {len(cohort)} exams, "
            f"of {usable.patients} patients",
            expected=f"at least {len(SPLITS)} patients, for {', '.join(SPLITS)}",
            where="train",
            todo="Import references with qmri-lake ingest-masks ... --as reference.",
            reason=Reason.ABSENT_EXAM,
        )
    return usable


def _draw(cohort: Cohort, task: str, names: list[str], seed: int) -> dict[str, Split]:
    """Draw the splits of all members, including those that are trained later."""
    if task == "bones":
        return dict.fromkeys(names, split_by_patient(cohort.exams, seed=seed))
    return dict(zip(names, draw_members(cohort.exams, len(names), seed), strict=True))


def _check_later_members(
    lake: Lake,
    chosen: Mapping[str, Recipe],
    splits: Mapping[str, Split],
    target: str,
    allow_missing: bool,
) -> None:
    """Check the exams of all members, so that a faulty exam does not stop a training after days."""
    used = {
        name: [exam for part in used_exams(recipe, splits[name]) for exam in part]
        for name, recipe in chosen.items()
    }
    exams = sorted(set().union(*used.values()))
    name, recipe = next(iter(chosen.items()))
    if len(exams) > len(used[name]):
        samples = SampleSet(lake, exams, recipe, target, Path())  # nothing is written
        check_classes(samples, allow_missing=allow_missing)


def _write_split(
    lake: Lake, folder: Path, settings: JsonMapping, splits: Mapping[str, Split]
) -> None:
    from qmri_lake.training.split_table import split_table

    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(splits.values()))
    if settings["task"] == "bones":
        table = split_table(lake, first)
    else:
        shown = {
            f"{name} {part}": keys
            for name, split in splits.items()
            for part, keys in split.items()
            if part != "test"
        }
        table = split_table(lake, {**shown, "test": first["test"]})
        table = table[~table["split"].str.endswith(", paper")]  # the paper's numbers are for bones
    table.to_csv(folder / TABLE, index=False)
    text = json.dumps({**settings, "members": splits}, indent=1)
    atomic_write_text(folder / SPLIT, text + "\n")


def _read_split(path: Path, settings: JsonMapping | None = None) -> JsonObject:
    """Read the settings of an ensemble and the splits of its members."""
    return read_training_record(
        path, settings or {}, needed=("members", "task"), what="an ensemble"
    )
