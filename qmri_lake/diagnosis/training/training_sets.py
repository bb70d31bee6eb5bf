"""Choose the sets of exams of a training, or read them from its folder to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.core.model_folder import CARD
from qmri_lake.diagnosis.labels import LabelledCohort, PainRule, label_for_task
from qmri_lake.diagnosis.training.set_classes import check_set_classes
from qmri_lake.errors import InputError, RunError
from qmri_lake.lake.balanced_split import SPLITS, CohortSplit, read_split, save_split, split
from qmri_lake.training.record import read_training_record

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = ["RECORD", "SPLIT", "TrainingSets", "resolve_sets"]

SPLIT = "split.json"
RECORD = "training.json"
Sets: TypeAlias = "Sequence[Cohort] | str | os.PathLike[str] | None"


@dataclass(frozen=True)
class TrainingSets:
    """Exam keys of a training and their labels, as sent to workers."""

    url: str
    snapshot: str
    """Snapshot of the lake, so that later exams do not change images and labels."""
    label: Mapping[str, int]
    """Labels by exam key: 0 or 1."""
    exams: Mapping[str, Sequence[str]]
    """Exam keys of the sets ``train`` and ``validation``, by name of the set."""


def resolve_sets(
    lake: Lake,
    out: Path,
    settings: JsonMapping,
    *,
    models: Sequence[tuple[str, ...]],
    sets: Sets,
    rule: PainRule,
    oa: Path | None,
    cohort: Cohort | str | None,
    resume: bool,
) -> TrainingSets:
    """Choose and write the sets of a training or, to resume, read them.

    Parameters
    ----------
    lake : Lake
    out : path
        Folder of the training: ``split.json`` and ``training.json``.
    settings : mapping
        Settings that must be the same when a training is resumed, including `task` and `seed`.
    models : sequence of (strategy, bone, ...)
        Folders of the models. Each set must have cases and controls with their maps. To resume,
        the test set and finished models are not checked.
    sets, rule, oa, cohort, resume
        See `qmri_lake.diagnosis.train_classifiers`, which also lists the errors.
    """
    from qmri_lake.lake.lake import open_lake

    exams = lake.resolve(cohort)
    settings = {**settings, "cohort": [row.condition for row in exams.rows_of_flow]}
    path, snapshot = out / RECORD, lake.snapshot
    if path.is_file():
        if not resume:
            raise RunError(
                f"the folder contains a {RECORD}",
                expected="an empty folder, or resume=True",
                where=out.name,
                todo="Resume with --resume, or train into another folder.",
            )
        known = read_training_record(
            path, settings, needed=("snapshot", "exams"), what="a training"
        )
        snapshot = known["snapshot"]
        lake_then = open_lake(lake.location, ref=snapshot, mode="r")
        exams = lake_then.cohort().of_exams(known["exams"], "of this training")
        labelled = label_for_task(exams, settings["task"], rule)
        chosen = read_split(lake_then, out / SPLIT)
        if sets is not None:
            given = _labelled_sets(lake, labelled, sets, oa, settings["seed"])
            _refuse_other_sets(given, chosen, out)
        left = [names for names in models if not out.joinpath(*names, CARD).is_file()]
        _check_classes(labelled, chosen, SPLITS[:2], left)
    else:
        exams = exams.require("sphere/map")
        labelled = label_for_task(exams, settings["task"], rule).require_both_classes()
        chosen = _labelled_sets(lake, labelled, sets, oa, settings["seed"])
        _check_classes(labelled, chosen, SPLITS, models)
        save_split(chosen, out / SPLIT)
        record = {
            **settings,
            "snapshot": snapshot,
            "flow": labelled.cohort.flow().to_dict("records"),
            "sets": _counts(labelled, chosen),
            "exams": exams.exams["exam"].tolist(),
        }
        atomic_write_text(path, json.dumps(record, indent=1) + "\n")
    keys = {name: part.exams["exam"].tolist() for name, part in zip(SPLITS, chosen, strict=True)}
    label = _label_by_exam(labelled)
    return TrainingSets(lake.location, snapshot, label, {name: keys[name] for name in SPLITS[:2]})


def _label_by_exam(labelled: LabelledCohort) -> dict[str, int]:
    return dict(zip(labelled.cohort.exams["exam"], labelled.label.tolist(), strict=True))


def _check_classes(
    labelled: LabelledCohort,
    chosen: CohortSplit,
    names: Sequence[str],
    models: Sequence[tuple[str, ...]],
) -> None:
    """Check that the named sets have both classes with the maps of each model."""
    parts = dict(zip(SPLITS, chosen, strict=True))
    check_set_classes(
        {name: parts[name] for name in names},
        _label_by_exam(labelled),
        list(dict.fromkeys((strategy, bone) for strategy, bone, *_ in models)),
    )


def _counts(labelled: LabelledCohort, chosen: CohortSplit) -> JsonObject:
    """Count the exams and cases of each set, and the labelled exams that are in no set."""
    counts: JsonObject = {}
    for name, part in zip(SPLITS, chosen, strict=True):
        cases = labelled.label[np.isin(labelled.cohort.rows, part.rows)]
        counts[name] = {"exams": len(part), "cases": int(cases.sum())}
    counts["in no set"] = len(labelled) - sum(map(len, chosen))
    return counts


def _labelled_sets(
    lake: Lake,
    labelled: LabelledCohort,
    sets: Sets,
    oa: Path | None,
    seed: int,
) -> CohortSplit:
    """Return the sets, restricted to labelled exams."""
    before = read_split(lake, oa / SPLIT) if oa is not None and (oa / SPLIT).is_file() else None
    if sets is None and oa is not None and before is None:
        raise RunError(
            f"no {SPLIT} beside the models of OA",
            expected="the sets on which the models of OA were trained",
            where=str(oa),
            todo=f"Pass sets: the {SPLIT} of their training.",
        )
    if sets is None and before is None:
        outcome = pd.Series(labelled.label, name=labelled.name)
        return split(labelled.cohort, seed=seed, outcome=outcome)
    if sets is None:
        assert before is not None
        patient = labelled.cohort.exams["patient"]
        parts = [
            labelled.cohort.keep(
                patient.isin(part.exams["patient"]).to_numpy(dtype=bool),
                f"patient in the {name} set of OA",
                "patient is in another set of OA",
            )
            for name, part in zip(SPLITS, before, strict=True)
        ]
        return CohortSplit(*parts)
    given = read_split(lake, sets) if isinstance(sets, (str, os.PathLike)) else CohortSplit(*sets)
    chosen = CohortSplit(
        *(
            labelled.cohort.of_exams(part.exams["exam"].tolist(), f"in the {name} set")
            for name, part in zip(SPLITS, given, strict=True)
        )
    )
    if before is not None:
        _refuse_training_patients(chosen, before)
    return chosen


def _refuse_training_patients(chosen: CohortSplit, before: CohortSplit) -> None:
    """Check that no patient of validation or test was used to train the models of OA."""
    for name, seen in (
        ("validation", before.train),
        ("test", before.train),
        ("test", before.validation),
    ):
        both = sorted(
            set(getattr(chosen, name).exams["patient"]) & set(seen.exams["patient"].tolist())
        )
        if both:
            raise InputError(
                f"{len(both)} patients of the {name} set were used to train the models of OA, "
                f"such as {both[0]}",
                expected="patients who were not used to train the models of OA",
                where="sets",
                todo="Omit sets to use the split of OA.",
            )


def _refuse_other_sets(given: CohortSplit, chosen: CohortSplit, out: Path) -> None:
    for name, one, other in zip(SPLITS, given, chosen, strict=True):
        if set(one.exams["exam"]) != set(other.exams["exam"]):
            raise RunError(
                f"the {name} set differs from {SPLIT}",
                expected="the set of the interrupted training",
                where=out.name,
                todo="Omit sets, or train into another folder.",
            )
