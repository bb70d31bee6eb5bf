"""State of a training, stored in checkpoints, and curves of its losses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from qmri_lake.core.json_types import JsonMapping
from qmri_lake.errors import RunError

__all__ = ["State", "draw_curves", "refuse_difference"]

CURVES = "curves.png"


@dataclass
class State:
    """Progress of a training, without the weights and the optimiser."""

    epoch: int = 0
    """Number of completed epochs."""
    best: float = math.inf
    """Lowest validation loss so far."""
    best_epoch: int = 0
    """Epoch with the lowest validation loss; 0 before the first epoch."""
    log: list[dict[str, float]] = field(default_factory=list)
    """Losses, one row per epoch."""


def refuse_difference(path: Path, found: JsonMapping, configuration: JsonMapping) -> None:
    """Raise a RunError if a checkpoint or card has another configuration.

    Parameters
    ----------
    path : Path
        The file, for the error message.
    found : mapping
        The configuration in the file.
    configuration : mapping
        The configuration of the current training.
    """
    # JSON turns tuples into lists.
    for name, value in json.loads(json.dumps(configuration)).items():
        if found.get(name) != value:
            raise RunError(
                f"a {path.name} with another {name}{_difference(found.get(name), value)}",
                expected=f"the same {name}",
                where=path.parent.name,
                todo="Resume with the original settings, or train into another folder.",
            )


def _difference(found: object, expected: object) -> str:
    """Return the first difference between two values as text, or "" if the text is too long."""
    if isinstance(found, dict) and isinstance(expected, dict):
        name = next(n for n in {**found, **expected} if found.get(n) != expected.get(n))
        return f", in {name}{_difference(found.get(name), expected.get(name))}"
    text = f": {found} instead of {expected}"
    return text if len(text) < 80 else ""


def draw_curves(state: State, folder: Path) -> None:
    """Save a figure of the losses of each epoch as ``curves.png``."""
    from qmri_lake.training.curves import curves_figure

    figure = curves_figure(pd.DataFrame(state.log), state.best_epoch, folder.name)
    figure.savefig(folder / CURVES, dpi=110)
