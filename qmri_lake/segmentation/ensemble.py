"""An ensemble's labels of one exam, and where its members disagree."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.frame import Frame
from qmri_lake.segmentation.network import Network, find_networks
from qmri_lake.segmentation.recipes import TASKS, Task

__all__ = ["Dtype", "Member", "Segmented", "open_members", "segment_exam"]

Dtype = Literal["float32", "bfloat16"]
DTYPES: Mapping[str, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""Names of Keras' policies. In bfloat16, layers compute in it; weights are kept in float32, and
logits are made float32 before the softmax, whose sum over members is float32 too."""


@runtime_checkable
class Member(Protocol):
    """What an ensemble asks of a network: ours, or one of your own. It is sent to workers."""

    @property
    def identity(self) -> str:
        """What a run records: with another one its exams are stale, with the same one done.

        So it must differ wherever predictions may: weights, frame, order of classes.
        """

    @property
    def task(self) -> Task:
        """Bones or cartilage."""

    @property
    def frame(self) -> Frame:
        """What it sees of an exam."""

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Return probabilities (class, slice, row, column), classes as in `qmri_lake.tissues`.

        `spacing` is that of the image's voxels along its axes, mm.
        """


class Segmented(NamedTuple):
    """What an ensemble says of an exam."""

    labels: NDArray[np.uint8]
    """(slice, row, column), as in `qmri_lake.tissues`."""
    uncertainty: NDArray[np.float32] | None
    """(slice, row, column), 0 to 1: share of the members whose own label is another one. None
    with a single member, whose certainty is not known, rather than 0."""


def open_members(
    models: Any, *, task: Task | None = None, dtype: str | None = "float32"
) -> list[Member]:
    """Open the members of an ensemble.

    Parameters
    ----------
    models : path, Member, or sequence of them
        Folders of a network or of several, as ``qmri-lake train`` writes them; networks that are
        open; networks of your own.
    task : {"bones", "cartilage"}, optional
        What all of them must segment.
    dtype : {"float32", "bfloat16"}, optional
        What our networks compute in; None: as they were opened.

    Raises
    ------
    NotFoundError
        No network there.
    InputError
        Networks of another task; another dtype; something that is neither a path nor a network.
    """
    if dtype is not None and (not isinstance(dtype, str) or dtype not in DTYPES):
        raise InputError(
            f"dtype={dtype!r}", expected=" or ".join(DTYPES), where="segment",
            reason=Reason.UNREADABLE_VALUE,
        )  # fmt: skip
    single = isinstance(models, (str, os.PathLike)) or isinstance(models, Member)
    found: list[Member] = []
    for item in [models] if single else _listed(models):
        if not isinstance(item, (str, os.PathLike)):
            found.append(_member(item))
        else:
            found += find_networks(os.fspath(item))
    if not found:
        raise NotFoundError(
            "no network", expected="at least one", where="models",
            todo="Give a folder that qmri-lake train wrote, or a network of your own.",
        )  # fmt: skip
    for n, member in enumerate(found):
        if task is not None and member.task != task:
            raise InputError(
                f"a network of {member.task}",
                expected=f"one of {task}: {', '.join(TASKS[task])}",
                where=member.identity,
                todo=f"Choose networks that segment {task}.",
                reason=Reason.MODEL_MISMATCH,
            )
        if dtype is not None and isinstance(member, Network):
            found[n] = replace(member, dtype=DTYPES[dtype])
    return found


def _listed(models: Any) -> list[Any]:
    return list(models) if isinstance(models, Sequence) else [models]


def _member(item: Any) -> Member:
    if isinstance(item, Member):
        return item
    todo = "Wrap a function: ql.segmentation.OwnNetwork(function, labels=...)."
    raise InputError(
        f"a {type(item).__name__}",
        expected="a folder, a Network or an OwnNetwork",
        where="models",
        todo=todo if callable(item) else "",
        reason=Reason.MODEL_MISMATCH,
    )


def segment_exam(
    image: NDArray[Any],
    affine: NDArray[np.float64],
    knee: str,
    networks: Sequence[Member],
) -> Segmented:
    """Segment one exam.

    The label is the highest class of the mean of the members' probabilities [paper; the highest:
    assumption]. One member's probabilities are in memory at a time, beside their sum.

    Parameters
    ----------
    image : (slice, row, column)
        Signal, any unit.
    affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm.
    knee : {"left", "right"}
        Read only by frames that put the medial slice first.
    networks : sequence of Member
        All of one task. Those with the same frame share one prepared image.

    Returns
    -------
    Segmented
        labels, uncertainty.

    Raises
    ------
    InputError
        Networks of two tasks, an image without signal or with voxels that are not finite, a volume
        that is smaller than a network can take, voxels of another size than it was trained on,
        weights that don't fit, probabilities that are none.
    """
    tasks = sorted({network.task for network in networks})
    if len(tasks) != 1:
        raise InputError(
            f"networks of {' and '.join(tasks) or 'nothing'}", expected="of one task",
            where="segment_exam", reason=Reason.MODEL_MISMATCH,
        )  # fmt: skip
    shape, classes = image.shape, len(TASKS[tasks[0]])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    by_frame: dict[Frame, list[Member]] = {}
    for network in networks:
        by_frame.setdefault(network.frame, []).append(network)
    votes = _Votes(classes, shape, len(networks))
    mean: NDArray[np.float32] | None = None
    for frame, members in by_frame.items():
        seen = frame.image(image, affine, knee)
        total = np.zeros((classes, *seen.shape), np.float32)
        for member in members:
            probabilities = member.predict(seen, tuple(spacing * np.array(frame.shrink)))
            _check(probabilities, total.shape, member)
            total += probabilities
            votes.add(probabilities, frame, affine, knee)
            del probabilities  # or two members' are there at once
        # A mean, not a sum: `back` fills what was not seen with the certainty of one member.
        total /= len(members)
        whole = frame.back(total, shape, affine, knee)
        del total
        whole *= np.float32(len(members) / len(networks))
        mean = whole if mean is None else np.add(mean, whole, out=mean)
        del whole
    assert mean is not None
    labels = mean.argmax(axis=0).astype(np.uint8)
    return Segmented(labels, votes.against(labels))


class _Votes:
    """How many members would give each label to each voxel; nothing of a single one."""

    def __init__(self, classes: int, shape: Sequence[int], members: int) -> None:
        self.members = members
        counted = (classes, *shape) if members > 1 else (0,)
        self.count = np.zeros(counted, np.min_scalar_type(members))

    def add(
        self,
        probabilities: NDArray[np.float32],
        frame: Frame,
        affine: NDArray[np.float64],
        knee: str,
    ) -> None:
        if self.members == 1:
            return
        shape = self.count.shape[1:]
        if np.prod(frame.shrink) == 1:
            own = frame.back_labels(probabilities.argmax(axis=0), shape, affine, knee)
        else:  # between coarse voxels, only probabilities can be interpolated
            own = frame.back(probabilities, shape, affine, knee).argmax(axis=0)
        for value, count in enumerate(self.count):
            count += own == value

    def against(self, labels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        if self.members == 1:
            return None
        agree = np.take_along_axis(self.count, labels[None], axis=0)[0]
        differ: NDArray[np.float32] = (self.members - agree.astype(np.float32)) / self.members
        return differ


def _check(probabilities: Any, expected: tuple[int, ...], member: Member) -> None:
    """Refuse what are no probabilities; those of our own networks can't be another shape."""
    shape = np.shape(probabilities)
    if shape != expected:
        raise InputError(
            f"probabilities of shape {shape}",
            expected=f"{expected}: class, slice, row, column",
            where=member.identity,
            todo="Return one channel a class, on the grid of the image that came in.",
            reason=Reason.MODEL_MISMATCH,
        )
    low, high = float(np.min(probabilities)), float(np.max(probabilities))
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails too
        raise InputError(
            f"values from {low:g} to {high:g}",
            expected="probabilities, 0 to 1",
            where=member.identity,
            todo="Return probabilities rather than logits; look at the weights if some are NaN.",
            reason=Reason.MODEL_MISMATCH,
        )
