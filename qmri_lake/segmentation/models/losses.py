"""The five losses of the bone networks [paper], each weighted by the distance to a boundary.

g is the one-hot label, p the softmax of the logits, w the class weights, and D = 1 + phi the
distance weight of a voxel and class (`distance_maps`; Caliva 2019) [group]:

======================  ==========================================================================
``dice``                -log of the mean over classes, weighted by w, of
                        2 sum(D g p) / (sum(D g) + sum(D p)), sums over the whole batch
``cross_entropy``       sum(w D (-log p)) / sum(w) over voxels, with w, D, p of the true label
``combined``            0.1 x ``cross_entropy`` + ``dice``
``confidence_penalty``  ``cross_entropy`` with -log p - beta H in place of -log p, where H is the
                        entropy of the prediction; penalises overconfidence (Pereyra 2017)
``plain_dice``          ``dice`` without class weights
======================  ==========================================================================

The list is from the paper, and -log(mean dice) is from the group. The positions of D and w, beta,
and the division of cross-entropy by sum(w) are assumptions. If cross-entropy were divided by the
number of voxels, it would be negligible relative to Dice, because the class weights of cartilage
are very unequal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.models.keras_types import Tensor
from qmri_lake.segmentation.models.loss_terms import Terms

__all__ = ["LOSSES", "class_weights", "loss"]

LOSSES = ("dice", "cross_entropy", "combined", "confidence_penalty", "plain_dice")
"""Names of the losses, in the paper's order."""

_CROSS_ENTROPY_FACTOR = 0.1
"""Factor of the cross-entropy in ``combined`` [paper]."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def loss(
    name: str,
    class_weights: Sequence[float] | Values | None = None,
    *,
    beta: float = 0.1,
    axis: int = -1,
) -> Loss:
    """Return a loss as a function of (target, logits), for Keras with TensorFlow or torch.

    Parameters
    ----------
    name : str
        One of `LOSSES`; the docstring of the module defines them.
    class_weights : (class,), optional
        Above 0, for example from `class_weights`; only their ratios matter. None: equal weights.
        ``plain_dice`` ignores them.
    beta : float
        Weight of the entropy in ``confidence_penalty``, 0 or more. Default: 0.1 [assumption].
    axis : int
        Axis of the channels in target and logits: -1, or 1 if channels come first.

    Returns
    -------
    function of (target, logits)
        `target`: channel 0 is the label, an integer from 0 to C - 1; channels 1 to C are phi of the
        classes, 0 to 1. `logits`: C channels before the softmax, any floating dtype. The function
        returns a float32 scalar, computed in float32. The minimum of the Dice losses and of
        ``combined`` is 0.

    Raises
    ------
    NotFoundError
        If there is no such loss.
    InputError
        If class weights or beta are out of range. The returned function raises it if the channels
        do not match.

    Notes
    -----
    Classes without a voxel in the batch are excluded from the mean Dice. Predicting such a class is
    still penalised, because it lowers the Dice of the classes that its voxels belong to.
    """
    if name not in LOSSES:
        raise NotFoundError(
            f"no loss {name!r}",
            expected=f"one of {', '.join(LOSSES)}",
            where="loss",
            todo=did_you_mean(name, LOSSES),
        )
    if not beta >= 0:
        raise InputError(f"beta {beta}", expected="0 or more", where="loss")
    weights = None if class_weights is None else _checked_weights(class_weights)

    def compute(target: Tensor, logits: Tensor) -> Tensor:
        terms = Terms(target, logits, axis, None if name == "plain_dice" else weights)
        if name in ("dice", "plain_dice"):
            return terms.dice()
        if name == "combined":
            return _CROSS_ENTROPY_FACTOR * terms.cross_entropy(0.0) + terms.dice()
        return terms.cross_entropy(beta if name == "confidence_penalty" else 0.0)

    compute.__name__ = name
    return compute


def class_weights(counts: ArrayLike) -> NDArray[np.float64]:
    """Return class weights, inversely proportional to the voxel counts, with mean 1 [assumption].

    Parameters
    ----------
    counts : (class,)
        Number of voxels of each class in the training set, each above 0.

    Raises
    ------
    InputError
        If a class has no voxels, since its weight would be infinite.

    Examples
    --------
    >>> class_weights([900, 100]).tolist()
    [0.2, 1.8]
    """
    number = np.asarray(counts, np.float64)
    bad = np.flatnonzero(~(np.isfinite(number) & (number > 0)))
    if number.ndim != 1 or not number.size or bad.size:
        found = f"{number[bad[0]]:g} voxels of class {bad[0]}" if bad.size else "no classes"
        raise InputError(
            found,
            expected="at least one voxel of each class",
            where="class_weights",
            todo="Add exams with this class to the training set, or train without this class.",
            reason=Reason.EMPTY_MASK,
        )
    inverse = number.min() / number
    weights: NDArray[np.float64] = inverse / inverse.mean()
    return weights


def _checked_weights(values: ArrayLike) -> NDArray[np.float32]:
    weights = np.asarray(values, np.float32)
    if weights.ndim != 1 or not (np.isfinite(weights) & (weights > 0)).all():
        raise InputError(
            f"class weights {weights.tolist()}",
            expected="one weight per class, above 0",
            where="loss",
        )
    return weights
