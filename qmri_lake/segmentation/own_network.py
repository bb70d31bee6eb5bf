"""Networks that were trained elsewhere, as members of an ensemble."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason, did_you_mean
from qmri_lake.segmentation.frame import Frame
from qmri_lake.segmentation.recipes import TASKS, Task

__all__ = ["NnUNet", "OwnNetwork"]

_AS_IT_IS = Frame(medial_first=False, crop=None, percentile=None)


@dataclass(frozen=True)
class OwnNetwork:
    """Any function from an image to class probabilities.

    Parameters
    ----------
    function : callable
        From an image (slice, row, column) float32, as `frame` shows it, to probabilities
        (class, slice, row, column), 0 to 1, on the same grid. On a cluster it is sent to the
        workers: keep it light, and let it read its weights on first use.
    labels : sequence of str
        Name of each of its classes, in their order: names as in `qmri_lake.tissues`, all bones or
        all of cartilage. Several classes may be one tissue (medial and lateral tibial cartilage),
        or ``"background"``; their probabilities are added.
    frame : Frame
        What it sees of an exam. Default: the exam as it is.
    name : str, optional
        What a run records, with a digest of `labels` and `frame`: with another name its exams are
        stale, with the same name they are done. Nothing is known of what the function does, so
        say the version of its weights in it. Default: the function's name; lambdas, closures,
        methods and other objects have none of their own.

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
    frame: Frame = field(default=_AS_IT_IS, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given = self.labels
        object.__setattr__(self, "labels", tuple(given) if not isinstance(given, str) else (given,))
        object.__setattr__(self, "name", self.name or _name_of(self.function))
        _task_of(self.labels, str(self.name))

    @property
    def identity(self) -> str:
        """Name, and a digest of labels and frame: what a run records."""
        seen = json.dumps([self.labels, asdict(self.frame)], sort_keys=True)
        return f"{self.name}@{hashlib.sha256(seen.encode()).hexdigest()[:8]}"

    @property
    def task(self) -> Task:
        """Bones or cartilage, as the labels say."""
        return _task_of(self.labels, str(self.name))

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Call the function, and put its classes into our order.

        Parameters
        ----------
        image : (slice, row, column) float32
        spacing : (3,), optional
            Distance of voxel centres along these axes, mm. A plain function does not get it.

        Returns
        -------
        (class, slice, row, column) float32
        """
        return self._in_our_order(self.function(image), image.shape)

    def _in_our_order(self, found: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
        found = np.asarray(found)
        if found.shape != (len(self.labels), *shape):
            raise InputError(
                f"probabilities of shape {found.shape}",
                expected=f"{(len(self.labels), *shape)}: class, slice, row, column",
                where=self.identity,
                todo="Return one channel a label, on the grid of the image that came in.",
                reason=Reason.MODEL_MISMATCH,
            )
        ours = TASKS[self.task]
        probabilities = np.zeros((len(ours), *shape), np.float32)
        for name, channel in zip(self.labels, found, strict=True):
            probabilities[ours[name]] += channel
        return probabilities


@dataclass(frozen=True)
class NnUNet(OwnNetwork):
    """An nnU-Net (v2) whose predictor is ready: ``predictor.initialize_from_trained_model_folder``.

    nnU-Net scales, resamples and mirrors by itself, so it gets each exam's own signal and spacing.

    Parameters
    ----------
    function : nnUNetPredictor
        `nnunetv2.inference.predict_from_raw_data.nnUNetPredictor`, or whatever has its method
        ``predict_single_npy_array``.
    labels : sequence of str
        Our names of its classes in the order of its ``dataset.json``, background first.
    frame, name
        As in `OwnNetwork`; a predictor has no name of its own, so it must be given one.
    """

    def predict(
        self, image: NDArray[np.float32], spacing: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """Return the predictor's probabilities, classes in our order.

        Raises
        ------
        InputError
            No spacing, which it resamples by.
        """
        if spacing is None:
            raise InputError(
                "no spacing", expected="three lengths, mm", where=self.identity,
                reason=Reason.UNREADABLE_VALUE,
            )  # fmt: skip
        predictor: Any = self.function
        _, probabilities = predictor.predict_single_npy_array(
            np.ascontiguousarray(image[None], np.float32),
            {"spacing": [float(mm) for mm in spacing]},
            None,
            None,
            True,
        )
        return self._in_our_order(probabilities, image.shape)


def _name_of(function: Callable[..., Any]) -> str:
    """Return a function's name, where it tells it from others."""
    name = str(getattr(function, "__name__", ""))
    # Two closures, or methods of two objects, may have one name and two sets of weights.
    holds = inspect.ismethod(function) or getattr(function, "__closure__", None)
    if holds or name in ("", "<lambda>"):
        raise InputError(
            f"no name of its own ({name or type(function).__name__})",
            expected="one that says which network it is, and which weights",
            where="OwnNetwork",
            todo="Give one: name='mine, version 1'.",
            reason=Reason.MODEL_MISMATCH,
        )
    return name


def _task_of(labels: Sequence[str], where: str) -> Task:
    """Return the task that has exactly these tissues, or say which one is missing or unknown."""
    given = set(labels)
    for task, ours in TASKS.items():
        if given == set(ours):
            return task
    # The nearer one is what was meant.
    ours = max(TASKS.values(), key=lambda names: len(given & set(names)))
    missing = [name for name in ours if name not in given]
    unknown = [name for name in labels if name not in ours]
    found = f"no class for {', '.join(missing)}" if missing else f"a class {unknown[0]!r}"
    if missing and unknown:
        found += f", and a class {unknown[0]!r}"
    raise InputError(
        found,
        expected=f"a label of each of {', '.join(ours)}",
        where=where,
        todo=did_you_mean(unknown[0], ours) if unknown else
        "A network that does not tell them apart can't fill this mask.",
        reason=Reason.MODEL_MISMATCH,
    )  # fmt: skip
