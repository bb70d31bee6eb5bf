"""Networks trained with other software, as members of an ensemble."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.segmentation.models.recipes import TASKS, Task

__all__ = ["NnUNet", "OwnNetwork"]

_IDENTITY = NetworkView(medial_first=False, crop=None, percentile=None)


@dataclass(frozen=True)
class OwnNetwork:
    """A function that computes class probabilities from an image.

    Parameters
    ----------
    function : callable
        Takes an image (slice, row, column) float32, transformed by `frame`, and returns
        probabilities (class, slice, row, column), 0 to 1, on the same grid. On a cluster, the
        function is sent to the workers. Let it read its weights on first use, so that it is small.
    labels : sequence of str
        Names of the classes, in the order of the probabilities. The names must be all bones or all
        cartilage labels of `qmri_lake.tissues`. Several classes may have the same name, such as
        medial and lateral tibial cartilage, or ``"background"``; their probabilities are added.
    frame : NetworkView
        Flip, crop and scaling of the exam. Default: the exam is not changed.
    name : str, optional
        A run records the name with a digest of `labels` and `frame`. Exams are stale if the name
        differs, and up to date if it is equal. The function itself is not compared, so include the
        version of its weights in the name. Default: the name of the function. The name is required
        for lambdas, closures, methods and other objects, which have no unique name.

    Examples
    --------
    >>> def guess(image):
    ...     return np.stack([image < 1, image >= 1, image > np.inf, image > np.inf])
    >>> network = OwnNetwork(guess, labels=["background", "femur", "tibia", "patella"])
    >>> network.task, network.identity
    ('bones', 'guess@...')
    """

    function: Callable[..., Any]
    labels: Sequence[str]
    frame: NetworkView = field(default=_IDENTITY, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given = self.labels
        object.__setattr__(self, "labels", tuple(given) if not isinstance(given, str) else (given,))
        object.__setattr__(self, "name", self.name or _name_of(self.function))
        _task_of(self.labels, str(self.name))

    @property
    def identity(self) -> str:
        """Name of the network with a digest of labels and frame, as recorded by a run."""
        interface = json.dumps([self.labels, asdict(self.frame)], sort_keys=True)
        return f"{self.name}@{hashlib.sha256(interface.encode()).hexdigest()[:8]}"

    @property
    def task(self) -> Task:
        """Bones or cartilage, inferred from the labels."""
        return _task_of(self.labels, str(self.name))

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Call the function, and order its classes as in `qmri_lake.tissues`.

        Parameters
        ----------
        image : (slice, row, column) float32
        spacing : (3,), optional
            Distance between voxel centres along these axes, mm. The function does not receive it.

        Returns
        -------
        (class, slice, row, column) float32
        """
        return self._ordered(self.function(image), image.shape)

    def _ordered(self, output: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
        channels = np.asarray(output)
        if channels.shape != (len(self.labels), *shape):
            raise InputError(
                f"probabilities of shape {channels.shape}",
                expected=f"{(len(self.labels), *shape)}: class, slice, row, column",
                where=self.identity,
                todo="Return one channel per label, on the grid of the image.",
                reason=Reason.MODEL_MISMATCH,
            )
        values = TASKS[self.task]
        probabilities = np.zeros((len(values), *shape), np.float32)
        for name, channel in zip(self.labels, channels, strict=True):
            probabilities[values[name]] += channel
        return probabilities


@dataclass(frozen=True)
class NnUNet(OwnNetwork):
    """A predictor of nnU-Net v2; call its ``initialize_from_trained_model_folder`` beforehand.

    nnU-Net includes scaling, resampling and mirroring, so it receives the original signal and
    spacing.

    Parameters
    ----------
    function : nnUNetPredictor
        `nnunetv2.inference.predict_from_raw_data.nnUNetPredictor`, or another object that has the
        method ``predict_single_npy_array``.
    labels : sequence of str
        Names of the classes as in `qmri_lake.tissues`, in the order of the predictor's
        ``dataset.json``, with background first.
    frame, name
        As in `OwnNetwork`. The name is required, since a predictor has no name of its own.
    """

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Return the probabilities of the predictor, ordered as in `qmri_lake.tissues`.

        Raises
        ------
        InputError
            If `spacing` is missing; nnU-Net needs it for resampling.
        """
        if spacing is None:
            raise InputError(
                "no spacing",
                expected="a spacing of three lengths, mm",
                where=self.identity,
                reason=Reason.UNREADABLE_VALUE,
            )
        predictor: Any = self.function  # an object of nnU-Net, which is not a dependency
        _, probabilities = predictor.predict_single_npy_array(
            np.ascontiguousarray(image[None], np.float32),
            {"spacing": [float(mm) for mm in spacing]},
            None,
            None,
            True,
        )
        return self._ordered(probabilities, image.shape)


def _name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function; raise an InputError if it does not identify the function."""
    name = str(getattr(function, "__name__", ""))
    # Two closures, or methods of two objects, may have the same name but different weights.
    has_state = inspect.ismethod(function) or getattr(function, "__closure__", None)
    if has_state or name in ("", "<lambda>"):
        raise InputError(
            f"no unique name ({name or type(function).__name__})",
            expected="a name that identifies the network and its weights",
            where="OwnNetwork",
            todo="Give a name: name='mine, version 1'.",
            reason=Reason.MODEL_MISMATCH,
        )
    return name


def _task_of(labels: Sequence[str], where: str) -> Task:
    """Return the task that has exactly these tissues; raise an InputError if there is none."""
    given = set(labels)
    for task, tissues in TASKS.items():
        if given == set(tissues):
            return task
    # The error refers to the task with more tissues in common.
    tissues = max(TASKS.values(), key=lambda names: len(given & set(names)))
    missing = [name for name in tissues if name not in given]
    unknown = [name for name in labels if name not in tissues]
    found = f"no class for {', '.join(missing)}" if missing else f"a class {unknown[0]!r}"
    if missing and unknown:
        found += f", and a class {unknown[0]!r}"
    raise InputError(
        found,
        expected=f"a label for each of {', '.join(tissues)}",
        where=where,
        todo=did_you_mean(unknown[0], tissues)
        if unknown
        else "Use a network that separates all of these tissues.",
        reason=Reason.MODEL_MISMATCH,
    )
