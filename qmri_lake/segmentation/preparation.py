"""What a training needs before its first step: exams that fit, all their tissues, room on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.recipes import MASK_NAMES, Recipe
from qmri_lake.segmentation.room import check_room, spelled
from qmri_lake.segmentation.samples import SampleSet

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["check_classes", "check_split", "check_target", "learned_from", "prepare_samples"]

_WORTH_SAYING = 10**9
"""Bytes from which the size of prepared volumes is announced."""
_NAMED = 20
"""Exams that an error names; there may be hundreds."""


def prepare_samples(
    lake: Lake,
    recipe: Recipe,
    split: Mapping[str, Sequence[str]],
    target: str,
    folder: Path,
    cache: str | os.PathLike[str] | None,
    *,
    allow_missing: bool = False,
    preparing: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> tuple[SampleSet, SampleSet, dict[str, list[str]]]:
    """Prepare the volumes that train and those that validate, after looking at all of them.

    Parameters and errors are those of `qmri_lake.segmentation.train.train`.

    Returns
    -------
    training, validation : SampleSet
        The copies are those of every member.
    without : dict of list of str
        Exams that lack a class, by class.
    """
    store = Path(cache) if cache is not None else folder.parent / "cache"
    trained, validated = learned_from(recipe, split)
    total = len(trained) + len(validated)

    def after(before: int) -> Callable[[int, int], None] | None:
        return None if preparing is None else lambda done, _: preparing(before + done, total)

    if preparing is not None:
        preparing(0, total)  # all are looked at first, which takes a while
    training = SampleSet(lake, trained, recipe, target, store, copies=recipe.copies)
    validation = SampleSet(lake, validated, recipe, target, store)
    without = check_classes(training, validation, allow_missing=allow_missing)
    needed = training.missing_bytes + validation.missing_bytes
    free = check_room(store, needed, "prepared volumes")
    if announce is not None and needed >= _WORTH_SAYING:
        announce(
            f"{folder.name}: {spelled(needed)} of prepared volumes go to {store}, "
            f"where {spelled(free)} are free"
        )
    training.prepare(after(0))
    validation.prepare(after(len(trained)))
    return training, validation, without


def learned_from(
    recipe: Recipe, split: Mapping[str, Sequence[str]]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the exams that train, and those that validate."""
    return split["train"], split["validation"][: recipe.validation]


def check_classes(*sets: SampleSet, allow_missing: bool = False) -> dict[str, list[str]]:
    """Return the exams that lack a class, by class, or refuse to learn from them.

    Parameters
    ----------
    *sets : SampleSet
        The first one trains.
    allow_missing : bool
        Refuse only a class that the first set lacks altogether.
    """
    first, todo = sets[0], ""
    without: dict[str, list[str]] = {}
    for each in sets:
        for name, exams in each.lacking.items():
            without[name] = [*without.get(name, []), *exams]
    total = sum(len(each.exams) for each in sets)
    nowhere = [n for n, exams in first.lacking.items() if len(exams) == len(first.exams)]
    if nowhere:
        found = f"no voxel of {', '.join(nowhere)} in the training exams"
        todo = "Choose exams whose labels have them."
    elif without and not allow_missing:
        found = f"no voxel of {'; of '.join(_counted(*item, total) for item in without.items())}"
        todo = (
            "Choose a cohort without these exams, or say --allow-missing (allow_missing=True) if "
            "it is the knee that lacks it."
        )
    if todo:
        raise InputError(
            found,
            expected="all classes in each exam: what is not drawn is learned as background",
            where=first.recipe.name,
            todo=todo,
            reason=Reason.EMPTY_MASK,
        )
    return without


def _counted(name: str, exams: Sequence[str], total: int) -> str:
    more = f" and {len(exams) - _NAMED} more" if len(exams) > _NAMED else ""
    return f"{name} in {len(exams)} of {total} exams ({', '.join(exams[:_NAMED])}{more})"


def check_target(target: str, recipe: Recipe) -> None:
    """Refuse the labels of the other task: some of its numbers mean something else here."""
    kind = MASK_NAMES[recipe.task]
    other = "bone" if kind == "cartilage" else "cartilage"
    if target.partition("__")[0] in (other, f"reference_{other}"):
        raise InputError(
            f"target {target}",
            expected=f"labels of {recipe.task}, such as reference_{kind}",
            where="train",
            reason=Reason.UNKNOWN_LABEL,
        )


def check_split(lake: Lake, split: Mapping[str, Sequence[str]]) -> None:
    """Refuse a patient in two splits: the network would be tested on what it has seen."""
    patient = dict(zip(lake.exams["exam"], lake.exams["patient"], strict=True))
    owner: dict[int, str] = {}
    for name, keys in split.items():
        for key in keys:
            if key not in patient:
                raise InputError(
                    f"no exam {key}", expected="an exam of this lake", where=f"split {name}",
                    reason=Reason.ABSENT_EXAM,
                )  # fmt: skip
            other = owner.setdefault(patient[key], name)
            if other != name:
                raise InputError(
                    f"the patient of {key} in {other} and in {name}",
                    expected="each patient in one split",
                    where="split",
                    todo="Split by patient: qmri_lake.segmentation.splits.split_by_patient.",
                )
    for name in ("train", "validation"):
        if not split.get(name):
            raise InputError(f"no exam in {name}", expected="at least one", where="split")
