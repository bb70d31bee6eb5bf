"""The V-Net in two and three dimensions, from one builder.

The encoder and the decoder have mirrored levels. A *block* consists of a few convolutions; its
input is added to the output of the last convolution before the activation (short shortcut). A long
shortcut concatenates the output of an encoder block with the upsampled features. Convolutions with
stride 2 downsample and double the channels; transposed convolutions upsample and halve the
channels. [paper; the sizes of the convolutions and the short shortcut are from the group]

The V-Net was published by Milletari et al. 2016, arXiv:1606.04797. This implementation has no batch
normalisation and uses ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.models.backend import channel_axis, keras
from qmri_lake.segmentation.models.keras_types import KerasModel, Tensor

__all__ = ["Architecture", "build_vnet", "padding", "start_at_frequencies"]

_INITIAL = ("glorot_uniform", "he_uniform")
_START_SCALE = 0.2
"""Factor of the initial weights of the last layer, so that the output is nearly uniform."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a V-Net.

    Parameters
    ----------
    rank : {2, 3}
        Dimensions of the input: slices (row, column), or volumes (slice, row, column).
    classes : int
        Output channels, including background.
    channels : int
        Channels of the first level; each further level has twice as many as the previous level.
    convolutions : tuple of int
        Number of convolutions of the block at each level, from the top. The number of levels is
        also the number of strides.
    bottom : int
        Number of convolutions of the block after the last stride.
    kernel : int
        Size of the convolutions along each axis.
    dropout : float
        Fraction of values dropped after each activation during training.
    initial : {"glorot_uniform", "he_uniform"}
        Distribution of the initial weights. With ReLU, activations decrease from layer to layer
        with Glorot's distribution, but not with He's.
    """

    rank: Literal[2, 3]
    classes: int
    channels: int = 16
    convolutions: tuple[int, ...] = (1, 2, 3, 3)
    bottom: int = 3
    kernel: int = 5
    dropout: float = 0.05
    initial: str = "glorot_uniform"

    def __post_init__(self) -> None:
        # JSON turns the tuples of a model card into lists.
        object.__setattr__(self, "convolutions", tuple(self.convolutions))
        for name, valid in (
            ("rank", self.rank in (2, 3)),
            ("classes", self.classes >= 2),
            ("channels", self.channels >= 1),
            ("convolutions", bool(self.convolutions) and min(self.convolutions) >= 1),
            ("bottom", self.bottom >= 1),
            ("kernel", self.kernel >= 1 and self.kernel % 2 == 1),
            ("dropout", 0 <= self.dropout < 1),
            ("initial", self.initial in _INITIAL),
        ):
            if not valid:
                raise InputError(
                    f"{name}={getattr(self, name)!r}",
                    expected="rank 2 or 3, at least 2 classes, 1 channel and 1 convolution per "
                    f"block, an odd kernel, 0 <= dropout < 1, initial {' or '.join(_INITIAL)}",
                    where="V-Net",
                )

    @property
    def stride(self) -> int:
        """Total stride along each axis: voxels of the input per voxel of the bottom level."""
        return int(2 ** len(self.convolutions))


def build_vnet(architecture: Architecture, *, dtype: str = "float32", seed: int = 0) -> KerasModel:
    """Build a V-Net.

    Parameters
    ----------
    architecture : Architecture
    dtype : str
        Keras dtype policy: "float32", or "mixed_bfloat16" to compute in bfloat16 with weights and
        logits in float32.
    seed : int
        Random seed of the weights and of the dropout.

    Returns
    -------
    keras.Model
        A model from (batch, [slice,] row, column, 1) to logits (batch, [slice,] row, column,
        class). With torch, the channel axis is 1. All sizes must be multiples of
        `Architecture.stride`: see `padding`.
    """
    k = keras()
    a, axis = architecture, channel_axis()
    seeds = iter(np.random.default_rng(seed).integers(0, 2**31 - 1, 10_000).tolist())
    layers, conv_name = k.layers, f"Conv{a.rank}D"

    def initializer() -> object:
        make = (
            k.initializers.HeUniform if a.initial == "he_uniform" else k.initializers.GlorotUniform
        )
        return make(seed=next(seeds))

    def conv(x: Tensor, filters: int, size: int, name: str, stride: int = 1) -> Tensor:
        make = getattr(layers, conv_name)
        return make(
            filters,
            size,
            strides=stride,
            padding="same",
            kernel_initializer=initializer(),
            name=name,
            dtype=dtype,
        )(x)

    def up(x: Tensor, filters: int, name: str) -> Tensor:
        make = getattr(layers, f"{conv_name}Transpose")
        x = make(
            filters,
            2,
            strides=2,
            padding="same",
            kernel_initializer=initializer(),
            name=name,
            dtype=dtype,
        )(x)
        return layers.ReLU(dtype=dtype)(x)

    def block(x: Tensor, shortcut: Tensor, filters: int, count: int, name: str) -> Tensor:
        for n in range(count):
            x = conv(x, filters, a.kernel, f"{name}_{n}")
            if n == count - 1:
                x = layers.Add(dtype=dtype)([x, shortcut])
            x = layers.ReLU(dtype=dtype)(x)
            if a.dropout:
                x = layers.Dropout(a.dropout, seed=next(seeds), dtype=dtype)(x)
        return x

    free = (None,) * a.rank
    inputs = k.Input((*free, 1) if axis == -1 else (1, *free), name="image")
    x = layers.ReLU(dtype=dtype)(conv(inputs, a.channels, a.kernel, "input"))
    skips = []
    for level, count in enumerate(a.convolutions):
        filters = a.channels * 2**level
        x = block(x, x, filters, count, f"down{level}")
        skips.append(x)
        x = layers.ReLU(dtype=dtype)(conv(x, 2 * filters, 2, f"down{level}_stride", stride=2))
    x = block(x, x, a.channels * a.stride, a.bottom, "bottom")
    for level, count in reversed(list(enumerate(a.convolutions))):
        filters = a.channels * 2**level
        x = up(x, filters, f"up{level}_stride")
        joined = layers.Concatenate(axis=axis, dtype=dtype)([x, skips[level]])
        # The input has twice the channels of the block, so the upsampled half is added.
        # [assumption]
        x = block(joined, x, filters, count, f"up{level}")
    logits = conv(x, a.classes, 1, "classes")
    logits = layers.Activation("linear", dtype="float32", name="logits")(logits)
    model: KerasModel = k.Model(inputs, logits, name=f"vnet_{a.rank}d")
    return model


def start_at_frequencies(model: KerasModel, counts: Values) -> None:
    """Initialise the last layer so that each class is predicted with about its frequency.

    With equal initial probabilities, Adam first learns that most voxels are background. A Dice loss
    may never leave this state, because the gradient of a saturated softmax vanishes.

    Parameters
    ----------
    model : keras.Model
        An untrained model of `build_vnet`.
    counts : (class,)
        Number of voxels of each class in the training set, each above 0.

    References
    ----------
    Lin et al. 2017, Focal loss for dense object detection, section 3.3 (for two classes).
    """
    classes = model.get_layer("classes")
    logs = np.log(counts / np.sum(counts))
    classes.bias.assign((logs - logs.mean()).astype(np.float32))
    classes.kernel.assign(classes.kernel * _START_SCALE)


def padding(shape: Sequence[int], stride: int) -> list[tuple[int, int]]:
    """Return (before, after) for each axis, so that every size becomes a multiple of `stride`.

    Raises
    ------
    InputError
        If an axis is shorter than the stride, since most of the input would be padding.
    """
    if any(n < stride for n in shape):
        raise InputError(
            f"a volume of {' x '.join(map(str, shape))} voxels",
            expected=f"at least {stride} along each axis, the stride of the network",
            where="V-Net",
            todo="Use a network with fewer levels, or an image with more voxels.",
            reason=Reason.TOO_SMALL,
        )
    missing = [-n % stride for n in shape]
    return [(n // 2, n - n // 2) for n in missing]


def pad(image: Values, stride: int) -> Values:
    """Pad an image with its edge values to multiples of `stride`."""
    return np.pad(image, padding(image.shape, stride), mode="edge")
