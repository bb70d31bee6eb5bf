"""Training of an ensemble: who learns from whom is drawn once, then each member learns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmri_lake.asked import read_asked
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.segmentation.members import Member, train_beside, train_member
from qmri_lake.segmentation.network import Network
from qmri_lake.segmentation.preparation import check_classes, learned_from
from qmri_lake.segmentation.recipes import Recipe, Task, recipes
from qmri_lake.segmentation.samples import SampleSet
from qmri_lake.segmentation.splits import SPLITS, Split, draw_members, split_by_patient
from qmri_lake.segmentation.train import EpochDone, default_target

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["SPLIT", "TABLE", "first_sets", "train_ensemble", "unseen_exams"]

SPLIT = "split.json"
TABLE = "split.csv"


def train_ensemble(
    lake: Lake,
    task: str,
    *,
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
    cluster: Any | None = None,
) -> list[Network]:
    """Train the networks of an ensemble: one after the other, or one a worker of a cluster.

    Parameters
    ----------
    lake : Lake
    task : {"bones", "cartilage"}
    preset : {"paper", "small"}
        ``paper``: as published. ``small``: what a laptop trains.
    out : path
        Folder of the ensemble: ``split.json``, ``split.csv``, a folder a member, such as
        ``bone_3d-1``, and the prepared volumes in ``cache``, which may be removed afterwards.
    members : int, optional
        Only so many; more can follow with `resume`.
    cohort : Cohort or query, optional
        Exams to choose from: those of them that have an image and labels. Default: all.
    target : str, optional
        Label array of group ``dess``; default ``reference_bone`` or ``reference_cartilage``.
    seed : int
        Of the split. Member n, from 1, is trained with seed + n - 1.
    resume : bool
        Go on where it stopped, with the exams that were drawn then, whatever the lake has got
        since. Members that are finished are skipped.
    epochs : int, optional
        Stop each member after so many epochs at the latest.
    progress : callable, optional
        Called with an `EpochDone` after each epoch.
    preparing : callable, optional
        Called with (member, exams that are ready, all exams) while volumes are prepared.
    announce : callable, optional
        Called with a line that says how much a member will write to ``cache``, where it is 1 GB or
        more.
    allow_missing : bool
        Learn also from exams whose labels lack a tissue: see `train`.
    cluster : optional
        As `qmri_lake.cluster`: members learn beside each other, one a worker, or one a GPU. Its
        workers must see `out` and the lake. Default: in this process. On a CPU the number of
        threads, all cores here and those of the worker there, may change a network's last digits.

    Returns
    -------
    list of Network
        In the order of the members.

    Raises
    ------
    InputError
        Too few patients with image and labels; what `train` refuses. Nothing is left but
        prepared volumes if it is the first member's: ``split.json`` is written after them.
    DiskFullError
        Less room than the prepared volumes of a member need; or none left.
    RunError
        An ensemble in the way; with `resume`, one of another task, preset, seed, target or cohort.
        What stops a member on a cluster is raised when the others have ended.

    Notes
    -----
    Bones: one split by patient, for all members. Cartilage: one test set, and a draw of training
    and validation sets for each member. [paper]
    """
    folder = Path(out)
    named = _named(recipes(task, preset))
    wanted = list(named.items())[: len(recipes(task, preset, members))]
    labels = target or default_target(next(iter(named.values())).task)
    asked = {
        "task": task, "preset": preset, "seed": seed, "target": labels
    }  # fmt: skip
    path, chosen = folder / SPLIT, lake._cohort(cohort)
    conditions = [row.condition for row in chosen.rows_of_flow]
    if path.is_file():
        if not resume:
            raise RunError(
                f"a {SPLIT}",
                expected="an empty folder, or resume=True",
                where=folder.name,
                todo="Go on with --resume, or train into another folder.",
            )
        splits = _read_split(path, {**asked, "cohort": conditions})["members"]
    else:
        splits = _draw(_usable(chosen, labels), task, list(named), seed)
        _check_later(lake, dict(wanted), splits, labels, allow_missing)

    def begin() -> None:
        # Once the exams have proved usable: after a refusal there is nothing to resume.
        if not path.is_file():
            _write_split(lake, folder, {**asked, "cohort": conditions}, splits)

    def listen(event: Mapping[str, Any]) -> None:
        match event["kind"]:
            case "epoch":
                if progress is not None:
                    progress(EpochDone(**event["done"]))
            case "announced":
                if announce is not None:
                    announce(event["line"])
            case "prepared":
                if event["done"] == event["total"]:
                    begin()
                if preparing is not None:
                    preparing(event["name"], event["done"], event["total"])

    learners = [
        Member(
            str(folder), name, recipe, splits[name], target=labels, seed=seed + number,
            resume=resume, epochs=epochs, allow_missing=allow_missing,
        )
        for number, (name, recipe) in enumerate(wanted)
    ]  # fmt: skip
    if cluster is None:
        networks = []
        for member in learners:
            networks.append(train_member(lake, member, listen))
            begin()  # a finished member prepares nothing
        return networks
    networks = train_beside(lake, learners, listen, cluster)
    begin()
    return networks


def unseen_exams(models: str | os.PathLike[str]) -> tuple[Task, list[str]]:
    """Return the task of an ensemble, and the exams that none of its members has learned from.

    Parameters
    ----------
    models : path
        The folder of the ensemble.

    Raises
    ------
    InputError
        No ``split.json`` there, or one that can't be read.
    """
    task, sets = first_sets(models)
    return task, list(sets["test"])


def first_sets(models: str | os.PathLike[str]) -> tuple[Task, dict[str, list[str]]]:
    """Return the task of an ensemble, and exam keys by set, of its first member.

    Members for bones share their sets; those for cartilage share test alone.

    Raises
    ------
    InputError
        No ``split.json`` there, or one that can't be read.
    """
    path = Path(models) / SPLIT
    if not path.is_file():
        raise InputError(
            f"no {SPLIT}",
            expected="the folder of an ensemble, as qmri-lake train writes it",
            where=os.fspath(models),
            reason=Reason.UNREADABLE_FILE,
        )
    known = _read_split(path)
    first = next(iter(known["members"].values()))
    return known["task"], {name: list(first[name]) for name in SPLITS}


def _named(members: list[Recipe]) -> dict[str, Recipe]:
    """Return recipes by the folder of the member, such as ``cartilage_2d-3``."""
    return {f"{recipe.name}-{n}": recipe for n, recipe in enumerate(members, start=1)}


def _usable(chosen: Cohort, target: str) -> Cohort:
    """Return the exams of a cohort that can be learned from."""
    usable = chosen.require("dess/image", f"dess/{target}")
    if usable.patients < len(SPLITS):
        raise InputError(
            f"{len(usable)} exams of {usable.patients} patients with image and dess/{target}, "
            f"of {len(chosen)}",
            expected=f"at least {len(SPLITS)} patients, for {', '.join(SPLITS)}",
            where="train",
            todo="Import references: qmri-lake ingest-masks ... --as reference.",
            reason=Reason.ABSENT_EXAM,
        )
    return usable


def _draw(chosen: Cohort, task: str, names: list[str], seed: int) -> dict[str, Split]:
    """Draw for all members of the ensemble, so that those that follow later fit the first."""
    if task == "bones":
        return dict.fromkeys(names, split_by_patient(chosen.exams, seed=seed))
    return dict(zip(names, draw_members(chosen.exams, len(names), seed), strict=True))


def _check_later(
    lake: Lake,
    wanted: Mapping[str, Recipe],
    splits: Mapping[str, Split],
    target: str,
    allow_missing: bool,
) -> None:
    """Look at the exams of later members as well, which would be refused only after days."""
    used = {
        name: [exam for part in learned_from(recipe, splits[name]) for exam in part]
        for name, recipe in wanted.items()
    }
    exams = sorted(set().union(*used.values()))
    name, recipe = next(iter(wanted.items()))
    if len(exams) > len(used[name]):
        found = SampleSet(lake, exams, recipe, target, Path())  # planned only
        check_classes(found, allow_missing=allow_missing)


def _write_split(
    lake: Lake, folder: Path, asked: Mapping[str, Any], splits: Mapping[str, Split]
) -> None:
    from qmri_lake.report.segmentation import split_table

    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(splits.values()))
    if asked["task"] == "bones":
        table = split_table(lake, first)
    else:
        shown = {
            f"{name} {part}": keys
            for name, split in splits.items()
            for part, keys in split.items()
            if part != "test"
        }
        table = split_table(lake, {**shown, "test": first["test"]})
        table = table[~table["split"].str.endswith(", paper")]  # those are of the bone networks
    table.to_csv(folder / TABLE, index=False)
    part = folder / f"part.{SPLIT}"
    text = json.dumps({**asked, "members": splits}, indent=1)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(folder / SPLIT)


def _read_split(path: Path, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what an ensemble was started with: its task, the splits of its members ..."""
    return read_asked(path, asked or {}, needed=("members", "task"), what="an ensemble")
