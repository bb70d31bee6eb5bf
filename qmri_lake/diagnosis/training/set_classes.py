"""Check that the sets of a training have cases and controls with maps, for every model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.diagnosis.data.map_reader import MapReader
from qmri_lake.errors import InputError
from qmri_lake.fusion import STRATEGIES, biomarkers_of

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort

__all__ = ["check_set_classes"]

_BLOCK = 8
"""Number of exams whose maps are read at once: the first few usually suffice."""
_NAMED = 3
_CLASSES = ("controls", "cases")


def check_set_classes(
    sets: Mapping[str, Cohort], label: Mapping[str, int], models: Sequence[tuple[str, str]]
) -> None:
    """Raise an error unless each set has cases and controls with the maps of each model.

    Maps are read until an exam of each class is found. This takes seconds, unless almost all exams
    lack the maps.

    Parameters
    ----------
    sets : mapping of Cohort
        Sets by name.
    label : mapping of int
        0 or 1 by exam key.
    models : sequence of (strategy, bone)
        Models that will be trained.

    Raises
    ------
    InputError
        If a set has no case or no control with the maps of a model. The message names all sets and
        models.
    """
    wanted = {bone: dict.fromkeys(s for s, b in models if b == bone) for _, bone in models}
    lacking: list[str] = []
    for name, part in sets.items():
        labels = np.array([label[str(key)] for key in part.exams["exam"]], int)
        for value, title in enumerate(_CLASSES):
            rows = part.rows[labels == value]
            without = [
                f"{strategy}/{bone}"
                for bone, strategies in wanted.items()
                for strategy in _without_exam(part, bone, strategies, rows)
            ]
            if without:
                lacking.append(f"no {title} in the {name} set{_of_models(without, models)}")
    if lacking:
        raise InputError(
            "; ".join(lacking),
            expected="cases and controls with maps in each set, for every model",
            where="sets",
            todo="Choose a larger cohort, fewer strategies or bones, or pass sets with both classes"
            " in each: ql.split(..., outcome=...).",
        )


def _without_exam(
    part: Cohort, bone: str, strategies: Iterable[str], rows: NDArray[np.intp]
) -> list[str]:
    """Return the strategies for which no exam at `rows` has all maps of the bone."""
    pending = list(strategies)
    needed = list(dict.fromkeys(b for strategy in STRATEGIES for b in biomarkers_of(strategy)))
    reader = MapReader(part.lake, bone)
    for start in range(0, len(rows), _BLOCK):
        empty = reader.empty(rows[start : start + _BLOCK], needed)
        pending = [
            strategy
            for strategy in pending
            if empty[:, [needed.index(b) for b in biomarkers_of(strategy)]].any(axis=1).all()
        ]
        if not pending:
            break
    return pending


def _of_models(without: Sequence[str], models: Sequence[tuple[str, str]]) -> str:
    """Return text that names the models without an exam in a set; "" if these are all models."""
    if len(without) == len(set(models)):
        return ""
    more = f" and {len(without) - _NAMED} more models" if len(without) > _NAMED else ""
    return f" for {', '.join(without[:_NAMED])}{more}"
