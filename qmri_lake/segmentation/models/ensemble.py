"""Segmentation of one exam by an ensemble, with the disagreement of its members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.models.members import Member
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import TASKS

__all__ = ["Segmentation", "segment_exam"]


class Segmentation(NamedTuple):
    """Labels of an exam, and their uncertainty."""

    labels: NDArray[np.uint8]
    """(slice, row, column), as in `qmri_lake.tissues`."""
    uncertainty: NDArray[np.float32] | None
    """(slice, row, column), 0 to 1: fraction of the members whose own label differs from `labels`.
    None for a single member, as uncertainty needs several."""


def segment_exam(
    image: Values,
    affine: NDArray[np.float64],
    knee: str,
    networks: Sequence[Member],
) -> Segmentation:
    """Segment one exam.

    The members' probabilities are averaged [paper]; the label is the most probable class
    [assumption]. Only the sum and the probabilities of one member are in memory at a time.

    Parameters
    ----------
    image : (slice, row, column)
        Signal, any unit.
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm.
    knee : {"left", "right"}
        Used only by views with `medial_first`.
    networks : sequence of Member
        All of one task. Members with the same frame share one transformed image.

    Returns
    -------
    Segmentation
        labels, uncertainty.

    Raises
    ------
    InputError
        If the networks have different tasks, if the image has no signal or contains NaN or
        infinity, if the volume is too small for a network, if its voxel size differs from that of
        the training exams, if weights do not fit, or if a member returns values outside 0 to 1.
    """
    tasks = sorted({network.task for network in networks})
    if len(tasks) != 1:
        raise InputError(
            f"networks of {' and '.join(tasks)}" if tasks else "no networks",
            expected="networks of one task",
            where="segment_exam",
            reason=Reason.MODEL_MISMATCH,
        )
    shape, classes = image.shape, len(TASKS[tasks[0]])
    spacing = voxel_spacing(affine)
    by_frame: dict[NetworkView, list[Member]] = {}
    for network in networks:
        by_frame.setdefault(network.frame, []).append(network)
    votes = _Votes(classes, shape, len(networks))
    mean: NDArray[np.float32] | None = None
    for frame, members in by_frame.items():
        transformed = frame.transform(image, affine, knee)
        total = np.zeros((classes, *transformed.shape), np.float32)
        for member in members:
            probabilities = member.predict(transformed, tuple(spacing * np.array(frame.shrink)))
            _check_probabilities(probabilities, total.shape, member)
            total += probabilities
            votes.add(probabilities, frame, affine, knee)
            del probabilities  # so that only one member's probabilities are in memory
        # A mean rather than a sum, since `inverse` sets background to 1 outside the crop.
        total /= len(members)
        whole = frame.inverse(total, shape, affine, knee)
        del total
        whole *= np.float32(len(members) / len(networks))
        mean = whole if mean is None else np.add(mean, whole, out=mean)
        del whole
    assert mean is not None
    labels = mean.argmax(axis=0).astype(np.uint8)
    return Segmentation(labels, votes.uncertainty(labels))


class _Votes:
    """Number of members that assign each label to each voxel; empty for a single member."""

    def __init__(self, classes: int, shape: Sequence[int], members: int) -> None:
        self.members = members
        size = (classes, *shape) if members > 1 else (0,)
        self.count = np.zeros(size, np.min_scalar_type(members))

    def add(
        self,
        probabilities: NDArray[np.float32],
        frame: NetworkView,
        affine: NDArray[np.float64],
        knee: str,
    ) -> None:
        """Add the labels of one member to the vote counts."""
        if self.members == 1:
            return
        shape = self.count.shape[1:]
        if np.prod(frame.shrink) == 1:
            own = frame.inverse_labels(probabilities.argmax(axis=0), shape, affine, knee)
        else:  # labels cannot be interpolated between coarse voxels
            own = frame.inverse(probabilities, shape, affine, knee).argmax(axis=0)
        for value, count in enumerate(self.count):
            count += own == value

    def uncertainty(self, labels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the fraction of members whose label differs from `labels`."""
        if self.members == 1:
            return None
        agree = np.take_along_axis(self.count, labels[None], axis=0)[0]
        differ: NDArray[np.float32] = (self.members - agree.astype(np.float32)) / self.members
        return differ


def _check_probabilities(
    probabilities: ArrayLike, expected: tuple[int, ...], member: Member
) -> None:
    """Raise an InputError for an unexpected shape, or for values outside 0 to 1."""
    shape = np.shape(probabilities)
    if shape != expected:
        raise InputError(
            f"probabilities of shape {shape}",
            expected=f"{expected}: class, slice, row, column",
            where=member.identity,
            todo="Return one channel per class, on the grid of the image.",
            reason=Reason.MODEL_MISMATCH,
        )
    low, high = float(np.min(probabilities)), float(np.max(probabilities))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
        raise InputError(
            f"values from {low:g} to {high:g}",
            expected="probabilities, 0 to 1",
            where=member.identity,
            todo="Return probabilities rather than logits; check the weights if values are NaN.",
            reason=Reason.MODEL_MISMATCH,
        )
