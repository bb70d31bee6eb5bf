"""The V-Net in two and three dimensions, from one builder.

An encoder and a decoder of mirrored levels. A *block* is a few convolutions whose input is added to
the last one's output before its activation (the short shortcut); a long shortcut concatenates an
encoder block's output with what comes up from below. Stride-2 convolutions go down and double the
channels, transposed ones come up and halve them. [paper; convolution sizes, residual: group]

Milletari et al. 2016, arXiv:1606.04797; without batch normalisation, with ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.backend import channel_axis, keras

__all__ = ["Architecture", "build_vnet", "padding", "start_at_frequencies"]

_INITIAL = ("glorot_uniform", "he_uniform")
_START_SCALE = 0.2
"""Factor of the last layer's weights at the start: it says nearly the same anywhere."""


@dataclass(frozen=True)
class Architecture:
    """What a V-Net is made of.

    Parameters
    ----------
    rank : {2, 3}
        Of the images: slices (row, column), or volumes (slice, row, column).
    classes : int
        Output channels, background included.
    channels : int
        Of the first level; each level below has twice as many.
    convolutions : tuple of int
        Convolutions of the block at each level, from the top; as many strides.
    bottom : int
        Convolutions of the block below the last stride.
    kernel : int
        Size of the convolutions along each axis.
    dropout : float
        Share of values dropped behind each activation while training.
    initial : {"glorot_uniform", "he_uniform"}
        How weights are drawn. Behind ReLU, Glorot's values shrink from layer to layer, He's don't.
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
        # A model card comes back from JSON, which has lists.
        object.__setattr__(self, "convolutions", tuple(self.convolutions))
        for name, right in (
            ("rank", self.rank in (2, 3)),
            ("classes", self.classes >= 2),
            ("channels", self.channels >= 1),
            ("convolutions", bool(self.convolutions) and min(self.convolutions) >= 1),
            ("bottom", self.bottom >= 1),
            ("kernel", self.kernel >= 1 and self.kernel % 2 == 1),
            ("dropout", 0 <= self.dropout < 1),
            ("initial", self.initial in _INITIAL),
        ):
            if not right:
                raise InputError(
                    f"{name}={getattr(self, name)!r}",
                    expected="rank 2 or 3, at least 2 classes, 1 channel and 1 convolution a "
                    f"block, an odd kernel, 0 <= dropout < 1, initial {' or '.join(_INITIAL)}",
                    where="V-Net",
                )

    @property
    def stride(self) -> int:
        """Voxels of the image in one voxel of the bottom, along each axis."""
        return int(2 ** len(self.convolutions))


def build_vnet(architecture: Architecture, *, dtype: str = "float32", seed: int = 0) -> Any:
    """Build a V-Net.

    Parameters
    ----------
    architecture : Architecture
    dtype : str
        Keras dtype policy: "float32", or "mixed_bfloat16" to compute in bfloat16 with weights and
        logits in float32.
    seed : int
        Of the weights and of the dropout.

    Returns
    -------
    keras.Model
        From (batch, [slice,] row, column, 1) to logits (batch, [slice,] row, column, class); under
        torch the channel axis is 1. Sizes are free, but multiples of `Architecture.stride`: see
        `padding`.
    """
    k = keras()
    a, axis = architecture, channel_axis()
    seeds = iter(np.random.default_rng(seed).integers(0, 2**31 - 1, 10_000).tolist())
    layers, conv_name = k.layers, f"Conv{a.rank}D"

    def drawn() -> Any:
        make = (
            k.initializers.HeUniform if a.initial == "he_uniform" else k.initializers.GlorotUniform
        )
        return make(seed=next(seeds))

    def conv(x: Any, filters: int, size: int, name: str, stride: int = 1) -> Any:
        make = getattr(layers, conv_name)
        return make(
            filters, size, strides=stride, padding="same", kernel_initializer=drawn(),
            name=name, dtype=dtype,
        )(x)  # fmt: skip

    def up(x: Any, filters: int, name: str) -> Any:
        make = getattr(layers, f"{conv_name}Transpose")
        x = make(
            filters, 2, strides=2, padding="same", kernel_initializer=drawn(), name=name,
            dtype=dtype,
        )(x)  # fmt: skip
        return layers.ReLU(dtype=dtype)(x)

    def block(x: Any, shortcut: Any, filters: int, count: int, name: str) -> Any:
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
        # The block's input has twice its channels: what came up is what is added. [assumption]
        x = block(joined, x, filters, count, f"up{level}")
    logits = conv(x, a.classes, 1, "classes")
    logits = layers.Activation("linear", dtype="float32", name="logits")(logits)
    return k.Model(inputs, logits, name=f"vnet_{a.rank}d")


def start_at_frequencies(model: Any, counts: NDArray[Any]) -> None:
    """Let an untrained network give each class about its frequency, everywhere.

    From equal probabilities Adam first learns that most voxels are background, and a Dice loss may
    never leave that: where a softmax is sure, its gradient vanishes.

    Parameters
    ----------
    model : keras.Model
        Of `build_vnet`.
    counts : (class,)
        Voxels of each class in the training set, each above 0.

    References
    ----------
    Lin et al. 2017, Focal loss for dense object detection, section 3.3, for two classes.
    """
    classes = model.get_layer("classes")
    logs = np.log(counts / np.sum(counts))
    classes.bias.assign((logs - logs.mean()).astype(np.float32))
    classes.kernel.assign(classes.kernel * _START_SCALE)


def padding(shape: Sequence[int], stride: int) -> list[tuple[int, int]]:
    """Return (before, after) for each axis, so that every size is a multiple of `stride`.

    Raises
    ------
    InputError
        An axis shorter than the stride: the bottom of the network would see padding only.
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


def pad(image: NDArray[Any], stride: int) -> NDArray[Any]:
    """Pad an image with its edge values to multiples of `stride`."""
    return np.pad(image, padding(image.shape, stride), mode="edge")
