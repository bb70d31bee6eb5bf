"""The five losses of the bone networks [P], each weighted by the distance to a boundary.

With g the label as 0 or 1 a class, p the softmax of the logits, w the class weights, and the weight
by distance of a voxel and class D = 1 + phi (`distance_maps`; Caliva 2019) [G]:

======================  ==========================================================================
``dice``                -log of the mean over classes, weighted by w, of
                        2 sum(D g p) / (sum(D g) + sum(D p)), sums over the whole batch
``cross_entropy``       sum(w D (-log p)) / sum(w), over voxels, each with w, D, p of its own label
``combined``            0.1 x ``cross_entropy`` + ``dice``
``confidence_penalty``  as ``cross_entropy``, of -log p - beta H for the entropy H of the
                        prediction (Pereyra 2017): a sure network pays
``plain_dice``          ``dice`` without class weights
======================  ==========================================================================

The list is the paper's [P], -log(mean dice) the group's [G]. Ours [A]: where D and w stand, beta,
and that cross-entropy is divided by sum(w), not by the number of voxels: with weights as uneven as
those of cartilage it would vanish beside the Dice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason, did_you_mean

__all__ = ["LOSSES", "class_weights", "loss"]

LOSSES = ("dice", "cross_entropy", "combined", "confidence_penalty", "plain_dice")
"""Names of the losses, in the paper's order."""

_SHARE_OF_CROSS_ENTROPY = 0.1
"""Factor of the cross-entropy in ``combined`` [P]."""

_SMALLEST_DICE = 1e-7
"""Below it the logarithm is cut off: a prediction that is wrong everywhere stays finite."""

Loss = Callable[[Any, Any], Any]


def loss(
    name: str,
    class_weights: Sequence[float] | NDArray[Any] | None = None,
    *,
    beta: float = 0.1,
    axis: int = -1,
) -> Loss:
    """Return a loss as a function of (target, logits), for Keras on TensorFlow or torch.

    Parameters
    ----------
    name : str
        One of `LOSSES`; the module says what each computes.
    class_weights : (class,), optional
        Above 0, e.g. from `class_weights`; only their ratios matter. None: all alike.
        ``plain_dice`` has none, whatever is given.
    beta : float
        Weight of the entropy in ``confidence_penalty``, 0 or more; 0.1 [A].
    axis : int
        Axis of the channels in target and logits: -1, or 1 where channels come first.

    Returns
    -------
    function of (target, logits)
        `target`: channel 0 is the label, 0 to C - 1 as a number, channels 1 to C are phi of the
        classes, 0 to 1. `logits`: C channels, before the softmax, any floating dtype. It returns a
        float32 scalar, computed in float32. ``combined`` and the Dices are 0 at best.

    Raises
    ------
    NotFoundError
        No such loss.
    InputError
        Class weights or beta out of range; when called, channels that don't fit.

    Notes
    -----
    A class that no voxel of the batch is labelled as is left out of the mean Dice, so that it
    neither adds to the loss nor takes from it. Predicting it still costs, by the classes whose
    voxels it is predicted in.
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
    given = None if class_weights is None else _checked_weights(class_weights)

    def compute(target: Any, logits: Any) -> Any:
        terms = _Terms(target, logits, axis, None if name == "plain_dice" else given)
        if name in ("dice", "plain_dice"):
            return terms.dice()
        if name == "combined":
            return _SHARE_OF_CROSS_ENTROPY * terms.cross_entropy(0.0) + terms.dice()
        return terms.cross_entropy(beta if name == "confidence_penalty" else 0.0)

    compute.__name__ = name
    return compute


def class_weights(counts: ArrayLike) -> NDArray[np.float64]:
    """Return weights of classes: inverse to their number of voxels, with mean 1 [A].

    Parameters
    ----------
    counts : (class,)
        Voxels of each class over the training set, each above 0.

    Raises
    ------
    InputError
        A class without voxels: a network can't learn it, and its weight would be infinite.

    Examples
    --------
    >>> class_weights([900, 100]).tolist()
    [0.2, 1.8]
    """
    number = np.asarray(counts, np.float64)
    bad = np.flatnonzero(~(np.isfinite(number) & (number > 0)))
    if number.ndim != 1 or not number.size or bad.size:
        which = f"{number[bad[0]]:g} voxels of class {bad[0]}" if bad.size else "no classes"
        raise InputError(
            which,
            expected="at least one voxel of each class",
            where="class_weights",
            todo="Add exams that show it to the training set, or train without the class.",
            reason=Reason.EMPTY_MASK,
        )
    inverse = number.min() / number
    weights: NDArray[np.float64] = inverse / inverse.mean()
    return weights


class _Terms:
    """What the losses are made of, from one batch."""

    def __init__(
        self, target: Any, logits: Any, axis: int, weights: NDArray[np.float32] | None
    ) -> None:
        from qmri_lake.segmentation.backend import keras

        self.ops = ops = keras().ops
        n_classes = logits.shape[axis]
        _check_channels(target.shape[axis], n_classes, weights)
        if axis not in (-1, len(logits.shape) - 1):
            target, logits = ops.moveaxis(target, axis, -1), ops.moveaxis(logits, axis, -1)
        # Half precision has no room for sums over voxels.
        self.log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        self.p = ops.exp(self.log_p)
        self.g = ops.one_hot(ops.cast(target[..., 0], "int32"), n_classes, dtype="float32")
        self.distance_weight = 1.0 + ops.cast(target[..., 1:], "float32")
        self.weights = ops.convert_to_tensor(
            np.ones(n_classes, np.float32) if weights is None else weights
        )

    def dice(self) -> Any:
        """-log of the weighted mean Dice of the classes that occur."""
        ops = self.ops
        dg = self.distance_weight * self.g
        truth = self._over_voxels(dg)
        both = self._over_voxels(dg * self.p)
        predicted = self._over_voxels(self.distance_weight * self.p)
        occurs = truth > 0
        # Where a class is neither labelled nor predicted, 0 / 0 would spoil the gradient.
        of_class = 2.0 * both / ops.where(occurs, truth + predicted, 1.0)
        weights = self.weights * ops.cast(occurs, "float32")
        mean = ops.sum(weights * of_class) / ops.sum(weights)
        return -ops.log(ops.maximum(mean, _SMALLEST_DICE))

    def cross_entropy(self, beta: float) -> Any:
        """Weighted cross-entropy, less beta times the entropy of the prediction."""
        ops = self.ops
        value = -ops.sum(self.g * self.log_p, axis=-1, keepdims=True)
        if beta:
            value = value + beta * ops.sum(self.p * self.log_p, axis=-1, keepdims=True)
        weights = ops.sum(self.weights * self.g, axis=-1, keepdims=True)
        distance_weight = ops.sum(self.distance_weight * self.g, axis=-1, keepdims=True)
        total = self._over_voxels(weights * distance_weight * value)
        return ops.squeeze(total / self._over_voxels(weights), axis=0)

    def _over_voxels(self, values: Any) -> Any:
        """Sum over all axes but the last.

        One by one: TensorFlow adds up 20 million voxels in a row, which float32 can't hold.
        """
        while len(values.shape) > 1:
            values = self.ops.sum(values, axis=-2)
        return values


def _checked_weights(values: ArrayLike) -> NDArray[np.float32]:
    weights = np.asarray(values, np.float32)
    if weights.ndim != 1 or not (np.isfinite(weights) & (weights > 0)).all():
        raise InputError(
            f"class weights {weights.tolist()}", expected="one a class, above 0", where="loss"
        )
    return weights


def _check_channels(target: int, logits: int, weights: NDArray[np.float32] | None) -> None:
    if target != logits + 1:
        raise InputError(
            f"a target of {target} channels for logits of {logits}",
            expected=f"{logits + 1}: the label, and phi of each class",
            where="loss",
            reason=Reason.MODEL_MISMATCH,
        )
    if weights is not None and len(weights) != logits:
        raise InputError(
            f"{len(weights)} class weights for {logits} classes",
            expected="one a class",
            where="loss",
            reason=Reason.MODEL_MISMATCH,
        )
