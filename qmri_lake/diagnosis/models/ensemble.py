"""Open the classifiers of an ensemble."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from qmri_lake.core.digest import sha256_of
from qmri_lake.core.model_folder import CARD
from qmri_lake.diagnosis.models.classifier import DIGITS, Classifier
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.fusion import STRATEGIES
from qmri_lake.surface.spherical_grid import BONES

__all__ = ["Models", "open_classifiers", "recorded_name"]

Models: TypeAlias = (
    str | os.PathLike[str] | Classifier | Sequence[str | os.PathLike[str] | Classifier]
)
"""Folders of classifiers, or classifiers."""


def open_classifiers(models: Models, *, task: str | None = None) -> tuple[Classifier, ...]:
    """Open the classifiers of an ensemble.

    Parameters
    ----------
    models : path, Classifier, or sequence of them
        Folder of one classifier, or of several classifiers in ``<strategy>/<bone>``, as written by
        ``qmri-lake train oa`` and ``qmri-lake train pain``. Unfinished classifiers are ignored.
    task : {"oa", "pain"}, optional
        Task that all classifiers must have.

    Returns
    -------
    tuple of Classifier
        The classifiers, sorted by task, strategy and bone.

    Raises
    ------
    NotFoundError
        If there is no classifier.
    InputError
        If a classifier has another task; if two classifiers have the same task, strategy and bone;
        if an item is neither a path nor a classifier. Also for the reasons that `Classifier.open`
        lists.
    """
    items = [models] if isinstance(models, (str, os.PathLike, Classifier)) else list(models)
    found: list[Classifier] = []
    for item in items:
        if isinstance(item, (str, os.PathLike)):
            found += [Classifier.open(folder) for folder in _folders(Path(item))]
        elif isinstance(item, Classifier):
            found.append(item)
        else:
            raise _mismatch(f"a {type(item).__name__}", "a folder or a Classifier", "models")
    if not found:
        raise NotFoundError(
            "no classifier",
            expected="at least one trained classifier",
            where=f"models {models}",
            todo="Pass a folder written by qmri-lake train oa or qmri-lake train pain.",
        )
    seen: dict[tuple[str, ...], Classifier] = {}
    for one in found:
        key = (one.recipe.task, one.strategy, one.bone)
        if task is not None and one.recipe.task != task:
            raise _mismatch(f"task {one.recipe.task}", f"task {task}", one.folder)
        if key in seen:
            raise _mismatch(
                f"two classifiers of {', '.join(key)}",
                "one",
                one.folder,
                f"Remove this folder or {seen[key].folder}.",
            )
        seen[key] = one
    strategies, bones = list(STRATEGIES), list(BONES)
    return tuple(
        sorted(
            found,
            key=lambda c: (c.recipe.task, strategies.index(c.strategy), bones.index(c.bone)),
        )
    )


def _folders(path: Path) -> list[Path]:
    if (path / CARD).is_file():
        return [path]
    return sorted(card.parent for card in path.glob(f"*/*/{CARD}"))


def _mismatch(found: str, expected: str, where: str, todo: str = "") -> InputError:
    return InputError(
        found, expected=expected, where=where, todo=todo, reason=Reason.MODEL_MISMATCH
    )


def recorded_name(classifier: Classifier) -> str:
    """Return the name of a classifier in the record of a run: strategy, bone, digest of its card.

    The card contains the digest of the weights. Therefore the name changes with each training, but
    does not depend on the folder.
    """
    card = sha256_of(Path(classifier.folder) / CARD)[:DIGITS]
    return f"{classifier.strategy}/{classifier.bone}@{card}"
