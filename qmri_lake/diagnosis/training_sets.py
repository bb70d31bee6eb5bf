"""Who learns and who judges: drawn once, written beside the models, read again to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qmri_lake.asked import read_asked
from qmri_lake.diagnosis.labels import Labelled, PainRule, label_oa, label_pain
from qmri_lake.errors import InputError, RunError
from qmri_lake.segmentation.splits import SPLITS
from qmri_lake.splitting import CohortSplit, read_split, save_split, split

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["ASKED", "SPLIT", "Drawn", "draw", "labelled_for"]

SPLIT = "split.json"
ASKED = "training.json"
Sets: TypeAlias = "Sequence[Cohort] | str | os.PathLike[str] | None"


@dataclass(frozen=True)
class Drawn:
    """Exams of a training, as keys, with their labels; it travels to workers."""

    url: str
    snapshot: str
    """The lake as it was: images and labels stay the same, whatever is appended."""
    label: Mapping[str, int]
    """By exam key."""
    exams: Mapping[str, Sequence[str]]
    """Keys by ``train`` and ``validation``."""


def labelled_for(chosen: Cohort, task: str, rule: PainRule) -> Labelled:
    """Return the exams that have a label of a task."""
    return label_oa(chosen) if task == "oa" else label_pain(chosen, rule)


def draw(
    lake: Lake,
    out: Path,
    asked: Mapping[str, Any],
    *,
    sets: Sets,
    rule: PainRule,
    oa: Path | None,
    cohort: Cohort | str | None,
    resume: bool,
) -> Drawn:
    """Draw who learns, and write it; or, to resume, read it.

    Parameters
    ----------
    lake : Lake
    out : path
        Folder of the training: ``split.json`` and ``training.json``.
    asked : mapping
        What a training that goes on must have been started with; `task` and `seed` among it.
    sets, rule, oa, cohort, resume
        As of `qmri_lake.diagnosis.training.train_classifiers`, which says what is raised.
    """
    from qmri_lake.lake import open_lake

    chosen = lake._cohort(cohort)
    asked = {**asked, "cohort": [row.condition for row in chosen.rows_of_flow]}
    path, snapshot = out / ASKED, lake.snapshot
    if path.is_file():
        if not resume:
            raise RunError(
                f"a {ASKED}", expected="an empty folder, or resume=True", where=out.name,
                todo="Go on with --resume, or train into another folder.",
            )  # fmt: skip
        known = read_asked(path, asked, needed=("snapshot", "exams"), what="a training")
        snapshot = known["snapshot"]
        then = open_lake(lake.location, ref=snapshot, mode="r")
        chosen = then.cohort().of_exams(known["exams"], "of this training")
        labelled = labelled_for(chosen, asked["task"], rule)
        drawn = read_split(then, out / SPLIT)
        if sets is not None:
            _refuse_other_sets(_resolved(lake, labelled, sets, oa, asked["seed"]), drawn, out)
    else:
        chosen = chosen.require("sphere/map")  # nobody learns from, or tests, no map
        labelled = labelled_for(chosen, asked["task"], rule).require_both_classes()
        drawn = _resolved(lake, labelled, sets, oa, asked["seed"])
        save_split(drawn, out / SPLIT)
        record = {
            **asked,
            "snapshot": snapshot,
            "flow": labelled.cohort.flow().to_dict("records"),
            "sets": _counts(labelled, drawn),
            "exams": chosen.exams["exam"].tolist(),
        }
        part = out / f"part.{ASKED}"
        part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    keys = {name: part.exams["exam"].tolist() for name, part in zip(SPLITS, drawn, strict=True)}
    label = dict(zip(labelled.cohort.exams["exam"], labelled.label.tolist(), strict=True))
    return Drawn(lake.location, snapshot, label, {name: keys[name] for name in SPLITS[:2]})


def _counts(labelled: Labelled, drawn: CohortSplit) -> dict[str, Any]:
    """Count exams and cases by set, and the exams with a label that are in none."""
    counts: dict[str, Any] = {}
    for name, part in zip(SPLITS, drawn, strict=True):
        cases = labelled.label[np.isin(labelled.cohort.rows, part.rows)]
        counts[name] = {"exams": len(part), "cases": int(cases.sum())}
    counts["in no set"] = len(labelled) - sum(map(len, drawn))
    return counts


def _resolved(
    lake: Lake,
    labelled: Labelled,
    sets: Sets,
    oa: Path | None,
    seed: int,
) -> CohortSplit:
    """Return the sets, of exams with a label alone."""
    before = read_split(lake, oa / SPLIT) if oa is not None and (oa / SPLIT).is_file() else None
    if sets is None and oa is not None and before is None:
        raise RunError(
            f"no {SPLIT} beside the models of OA", expected="who they have learned from",
            where=str(oa), todo=f"Give sets: the {SPLIT} of their training.",
        )  # fmt: skip
    if sets is None and before is None:
        return split(labelled.cohort, seed=seed)
    if sets is None:
        assert before is not None
        whose = labelled.cohort.exams["patient"]
        parts = [
            labelled.cohort._keep(
                whose.isin(part.exams["patient"]).to_numpy(dtype=bool),
                f"patient in the {name} set of OA", "of other patients",
            )
            for name, part in zip(SPLITS, before, strict=True)
        ]  # fmt: skip
        return CohortSplit(*parts)
    given = read_split(lake, sets) if isinstance(sets, (str, os.PathLike)) else CohortSplit(*sets)
    drawn = CohortSplit(
        *(
            labelled.cohort.of_exams(part.exams["exam"].tolist(), f"in the {name} set")
            for name, part in zip(SPLITS, given, strict=True)
        )
    )
    if before is not None:
        _refuse_seen(drawn, before)
    return drawn


def _refuse_seen(drawn: CohortSplit, before: CohortSplit) -> None:
    """Refuse to judge by patients that the models of OA, which these start from, learned from."""
    for name, seen in (("validation", before.train), ("test", before.train),
                       ("test", before.validation)):  # fmt: skip
        both = sorted(
            set(getattr(drawn, name).exams["patient"]) & set(seen.exams["patient"].tolist())
        )
        if both:
            raise InputError(
                f"{len(both)} patients of the {name} set that models of OA have learned from, "
                f"such as {both[0]}",
                expected="patients that they have not seen", where="sets",
                todo="Leave sets out: the split of OA is taken then.",
            )  # fmt: skip


def _refuse_other_sets(asked: CohortSplit, drawn: CohortSplit, out: Path) -> None:
    for name, one, other in zip(SPLITS, asked, drawn, strict=True):
        if set(one.exams["exam"]) != set(other.exams["exam"]):
            raise RunError(
                f"another {name} set than in {SPLIT}", expected="the one that it began with",
                where=out.name, todo="Leave sets out, or train into another folder.",
            )  # fmt: skip
