"""Events that a training reports."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EpochDone"]


@dataclass(frozen=True, slots=True)
class EpochDone:
    """Event reported at the end of an epoch, after its checkpoint was written."""

    name: str
    """Name of the folder of the network."""
    epoch: int
    """Number of the epoch, from 1."""
    epochs: int
    """Number of the last epoch, unless early stopping ends the training earlier."""
    loss: float
    """Mean training loss of the epoch."""
    validation_loss: float
    best: bool
    """Whether the validation loss is the lowest so far."""
