"""Terms of the losses: Dice and cross-entropy of one batch, weighted by distance and class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.models.keras_types import Tensor

__all__ = ["Terms"]

_SMALLEST_DICE = 1e-7
"""Lower limit of the mean Dice, so that its logarithm is finite even if nothing overlaps."""


class Terms:
    """Terms of the losses, computed from one batch."""

    def __init__(
        self, target: Tensor, logits: Tensor, axis: int, weights: NDArray[np.float32] | None
    ) -> None:
        from qmri_lake.segmentation.models.backend import keras

        self.ops = ops = keras().ops
        n_classes = logits.shape[axis]
        _check_channels(target.shape[axis], n_classes, weights)
        if axis not in (-1, len(logits.shape) - 1):
            target, logits = ops.moveaxis(target, axis, -1), ops.moveaxis(logits, axis, -1)
        # Half precision is not enough for sums over voxels.
        self.log_p = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        self.p = ops.exp(self.log_p)
        self.g = ops.one_hot(ops.cast(target[..., 0], "int32"), n_classes, dtype="float32")
        self.distance_weight = 1.0 + ops.cast(target[..., 1:], "float32")
        self.weights = ops.convert_to_tensor(
            np.ones(n_classes, np.float32) if weights is None else weights
        )

    def dice(self) -> Tensor:
        """-log of the weighted mean Dice of the classes that occur."""
        ops = self.ops
        dg = self.distance_weight * self.g
        truth = self._over_voxels(dg)
        both = self._over_voxels(dg * self.p)
        predicted = self._over_voxels(self.distance_weight * self.p)
        occurs = truth > 0
        # For a class that is neither labelled nor predicted, 0 / 0 would make the gradient NaN.
        of_class = 2.0 * both / ops.where(occurs, truth + predicted, 1.0)
        weights = self.weights * ops.cast(occurs, "float32")
        mean = ops.sum(weights * of_class) / ops.sum(weights)
        return -ops.log(ops.maximum(mean, _SMALLEST_DICE))

    def cross_entropy(self, beta: float) -> Tensor:
        """Weighted cross-entropy, minus beta times the entropy of the prediction."""
        ops = self.ops
        value = -ops.sum(self.g * self.log_p, axis=-1, keepdims=True)
        if beta:
            value = value + beta * ops.sum(self.p * self.log_p, axis=-1, keepdims=True)
        weights = ops.sum(self.weights * self.g, axis=-1, keepdims=True)
        distance_weight = ops.sum(self.distance_weight * self.g, axis=-1, keepdims=True)
        total = self._over_voxels(weights * distance_weight * value)
        return ops.squeeze(total / self._over_voxels(weights), axis=0)

    def _over_voxels(self, values: Tensor) -> Tensor:
        """Sum over all axes but the last.

        The axes are summed one by one: TensorFlow would add 20 million voxels sequentially, which
        loses precision in float32.
        """
        while len(values.shape) > 1:
            values = self.ops.sum(values, axis=-2)
        return values


def _check_channels(target: int, logits: int, weights: NDArray[np.float32] | None) -> None:
    if target != logits + 1:
        raise InputError(
            f"a target of {target} channels for logits of {logits}",
            expected=f"{logits + 1} channels: the label, and phi of each class",
            where="loss",
            reason=Reason.MODEL_MISMATCH,
        )
    if weights is not None and len(weights) != logits:
        raise InputError(
            f"{len(weights)} class weights for {logits} classes",
            expected="one weight per class",
            where="loss",
            reason=Reason.MODEL_MISMATCH,
        )
