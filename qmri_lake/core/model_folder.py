"""Names of the files in the folder of a trained model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qmri_lake.core.atomic_write import atomic_write_text

__all__ = ["CARD", "CHECKPOINT", "write_card"]

CARD = "card.json"

CHECKPOINT = "checkpoint.npz"


def write_card(folder: Path, card: Mapping[str, object]) -> None:
    """Replace the card of a model atomically."""
    atomic_write_text(folder / CARD, json.dumps(card, indent=2) + "\n")
