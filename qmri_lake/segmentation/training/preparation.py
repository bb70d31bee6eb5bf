"""Checks and preparation before a training: split, labels, free disk space, prepared volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qmri_lake.core.disk_full import check_room
from qmri_lake.core.text import format_bytes
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.models.recipes import MASK_NAMES, Recipe
from qmri_lake.segmentation.training.dataset import SampleSet

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["check_classes", "check_split", "check_target", "prepare_samples", "used_exams"]

_ANNOUNCED_BYTES = 10**9
"""Smallest size of the prepared volumes, bytes, that is reported to the user."""
_MAX_NAMED = 20
"""Largest number of exams that an error message lists; hundreds may be affected."""


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
    """Prepare the training and validation volumes, after checking all of them.

    Parameters and errors are those of `qmri_lake.segmentation.training.loop.train`.

    Returns
    -------
    training, validation : SampleSet
        All members have the same offline copies.
    without : dict of list of str
        For each class, the exams that lack it.
    """
    store = Path(cache) if cache is not None else folder.parent / "cache"
    training_exams, validation_exams = used_exams(recipe, split)
    total = len(training_exams) + len(validation_exams)

    def progress_from(offset: int) -> Callable[[int, int], None] | None:
        return None if preparing is None else lambda done, _: preparing(offset + done, total)

    if preparing is not None:
        preparing(0, total)  # before the checks of all exams, which take some time
    training = SampleSet(lake, training_exams, recipe, target, store, copies=recipe.copies)
    validation = SampleSet(lake, validation_exams, recipe, target, store)
    without = check_classes(training, validation, allow_missing=allow_missing)
    needed = training.missing_bytes + validation.missing_bytes
    free = check_room(store, needed, "prepared volumes")
    if announce is not None and needed >= _ANNOUNCED_BYTES:
        announce(
            f"{folder.name}: {format_bytes(needed)} of prepared volumes are written to {store} "
            f"({format_bytes(free)} free)"
        )
    training.prepare(progress_from(0))
    validation.prepare(progress_from(len(training_exams)))
    return training, validation, without


def used_exams(
    recipe: Recipe, split: Mapping[str, Sequence[str]]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the exams for training, and those for validation."""
    return split["train"], split["validation"][: recipe.validation]


def check_classes(*sets: SampleSet, allow_missing: bool = False) -> dict[str, list[str]]:
    """Return for each class the exams that lack it.

    Parameters
    ----------
    *sets : SampleSet
        The first set is the training set.
    allow_missing : bool
        Raise an error only for classes that are missing in all exams of the training set.

    Raises
    ------
    InputError
        If a class is missing.
    """
    training, todo = sets[0], ""
    without: dict[str, list[str]] = {}
    for each in sets:
        for name, exams in each.lacking.items():
            without[name] = [*without.get(name, []), *exams]
    total = sum(len(each.exams) for each in sets)
    absent = [n for n, exams in training.lacking.items() if len(exams) == len(training.exams)]
    if absent:
        found = f"no voxel of {', '.join(absent)} in the training exams"
        todo = "Choose exams whose labels contain all of these classes."
    elif without and not allow_missing:
        found = f"no voxel of {'; of '.join(_counted(*item, total) for item in without.items())}"
        todo = (
            "Exclude these exams, or use --allow-missing (allow_missing=True) if the tissue is "
            "absent in the knee."
        )
    if todo:
        raise InputError(
            found,
            expected="all classes in each exam, since a missing class is learned as background",
            where=training.recipe.name,
            todo=todo,
            reason=Reason.EMPTY_MASK,
        )
    return without


def _counted(name: str, exams: Sequence[str], total: int) -> str:
    more = f" and {len(exams) - _MAX_NAMED} more" if len(exams) > _MAX_NAMED else ""
    return f"{name} in {len(exams)} of {total} exams ({', '.join(exams[:_MAX_NAMED])}{more})"


def check_target(target: str, recipe: Recipe) -> None:
    """Raise an InputError for labels of the other task, whose values denote other tissues."""
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
    """Raise an InputError if a patient is in two splits, which would bias the test."""
    patient = dict(zip(lake.exams["exam"], lake.exams["patient"], strict=True))
    split_of: dict[int, str] = {}
    for name, keys in split.items():
        for key in keys:
            if key not in patient:
                raise InputError(
                    f"no exam {key}",
                    expected="an exam of this lake",
                    where=f"split {name}",
                    reason=Reason.ABSENT_EXAM,
                )
            other = split_of.setdefault(patient[key], name)
            if other != name:
                raise InputError(
                    f"the patient of {key} in {other} and in {name}",
                    expected="each patient in one split",
                    where="split",
                    todo="Split by patient: qmri_lake.lake.split_by_patient.split_by_patient.",
                )
    for name in ("train", "validation"):
        if not split.get(name):
            raise InputError(f"no exam in {name}", expected="at least one exam", where="split")
