"""The input of a network: flip, crop and scaling of an exam, and the exact inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason

__all__ = ["NetworkView"]

Box = tuple[slice, slice, slice]
Size = tuple[int, int, int]

_MIN_PROBABILITY = 1e-4
"""Smaller probabilities are set to this value before the logarithm is taken."""

_MEDIAL_X = {"right": 1.0, "left": -1.0}
"""Sign of LPS x towards the middle of the body, for each knee."""


@dataclass(frozen=True)
class NetworkView:
    """Flip, centre crop and scaling that a network was trained with.

    Cartilage networks use ``NetworkView(True, (140, 344, 344), 85.0)`` [paper]: slices ordered from
    medial to lateral, a centre crop of 344 x 344 x 140 (rows, columns, slices), and division by the
    85th percentile. An axis that is shorter than the crop is padded with 0 on both sides, in images
    and in labels. If the two margins differ, the longer margin is at the end, after the flip.
    """

    medial_first: bool
    """Whether slice 0 is the most medial slice, so that left and right knees look alike."""
    crop: tuple[int, int, int] | None
    """Size of the centre crop: slices, rows, columns; None: no crop."""
    percentile: float | None = 85.0
    """Images are divided by this percentile of the cropped voxels; None: no scaling."""
    shrink: tuple[int, int, int] = (1, 1, 1)
    """Slices, rows, columns that are averaged into one voxel, to save computing time. The inverse
    interpolates log-odds linearly between the centres of these blocks. [assumption]"""

    def __post_init__(self) -> None:
        if self.crop is not None:
            # JSON turns tuples into lists.
            crop = tuple(int(n) for n in self.crop)
            object.__setattr__(self, "crop", crop)
            if len(crop) != 3 or min(crop) < 1:
                raise InputError(
                    f"crop {crop}", expected="slices, rows and columns above 0", where="NetworkView"
                )
        object.__setattr__(self, "shrink", tuple(int(n) for n in self.shrink))
        if len(self.shrink) != 3 or min(self.shrink) < 1:
            raise InputError(
                f"shrink {self.shrink}", expected="three integers above 0", where="NetworkView"
            )
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise InputError(
                f"percentile {self.percentile}",
                expected="above 0, at most 100",
                where="NetworkView",
            )

    def size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the size of the network's input (slices, rows, columns) for an exam's shape."""
        return _block_counts(self._cropped_size(shape), self.shrink)

    def _cropped_size(self, shape: Sequence[int]) -> Size:
        """Return the size after the crop, in voxels of the exam."""
        return self.crop or (shape[0], shape[1], shape[2])

    def transform(
        self, image: Values, affine: NDArray[np.float64], knee: str
    ) -> NDArray[np.float32]:
        """Convert the image of an exam to the input of the network.

        Parameters
        ----------
        image : (slice, row, column)
            Signal, finite, any unit.
        affine : (4, 4)
            Voxel (slice, row, column) to LPS mm; used only for the direction of the slices.
        knee : {"left", "right"}

        Returns
        -------
        array of float32, (slice, row, column) of `size`
            Signal as a fraction of the percentile. The percentile is computed from the voxels of
            the exam, without the padding.

        Raises
        ------
        InputError
            If the image contains NaN or infinity, if its percentile is 0, if the slices are not
            sagittal, or if `knee` is not "left" or "right".
        """
        image = _check_volume(image)
        source, place = self._boxes(image.shape)
        cropped = image[:: self._step(affine, knee)][source].astype(np.float32)
        if not np.isfinite(cropped).all():
            raise InputError(
                f"{np.count_nonzero(~np.isfinite(cropped))} voxels that are not finite",
                expected="finite signal everywhere",
                where="image",
                todo="Crop to the true extent of the exam.",
                reason=Reason.UNREADABLE_VALUE,
            )
        if self.percentile is not None:
            level = np.percentile(cropped, self.percentile)
            if not level > 0:
                raise InputError(
                    f"{level:g} as percentile {self.percentile:g} of the image",
                    expected="a signal above 0",
                    where="image",
                    todo="Check whether the image is empty or nearly empty.",
                    reason=Reason.UNREADABLE_VALUE,
                )
            cropped /= np.float32(level)
        padded = _pad(cropped, self._cropped_size(image.shape), place)
        return _shrink_image(padded, self.shrink)

    def transform_labels(self, labels: Values, affine: NDArray[np.float64], knee: str) -> Values:
        """Convert labels of an exam to the grid of the network; 0 in the padding.

        If voxels are averaged (`shrink`), each block gets its most frequent label.

        Parameters
        ----------
        labels : (slice, row, column)
        affine, knee
            As in `transform`.
        """
        labels = _check_volume(labels)
        source, place = self._boxes(labels.shape)
        cropped = labels[:: self._step(affine, knee)][source]
        padded = _pad(cropped, self._cropped_size(labels.shape), place)
        return padded if max(self.shrink) == 1 else _majority(padded, self.shrink)

    def inverse(
        self,
        probabilities: Values,
        shape: Sequence[int],
        affine: NDArray[np.float64],
        knee: str,
    ) -> Values:
        """Convert class probabilities to the grid of the exam.

        Parameters
        ----------
        probabilities : (class, slice, row, column), 0 to 1
            On the grid of the network; class 0 is background.
        shape : (3,)
            Slices, rows, columns of the exam.
        affine, knee
            As in `transform`.

        Returns
        -------
        array of the same dtype, (class, *shape)
            Outside the crop, the probability of background is 1.

        Raises
        ------
        InputError
            If the size of the probabilities differs from the network's input for this shape.
        """
        whole = np.zeros((len(probabilities), *shape), probabilities.dtype)
        whole[0] = 1
        self._check_size(probabilities, shape)
        if max(self.shrink) > 1:
            probabilities = _enlarge(probabilities, self._cropped_size(shape), self.shrink)
        return self._restore(probabilities, whole, affine, knee)

    def inverse_labels(
        self,
        labels: Values,
        shape: Sequence[int],
        affine: NDArray[np.float64],
        knee: str,
    ) -> NDArray[np.uint8]:
        """Convert labels (slice, row, column) to the grid of the exam; 0 outside the crop.

        Parameters and errors are those of `inverse`. A view with `shrink` above 1 raises an
        InputError, since only probabilities can be interpolated.
        """
        if max(self.shrink) > 1:
            raise InputError(
                f"labels of a view with shrink={self.shrink}",
                expected="probabilities",
                where="NetworkView",
                todo="Use inverse, and take the class with the highest probability.",
            )
        self._check_size(labels[None], shape)
        whole = np.zeros((1, *shape), np.uint8)
        restored: NDArray[np.uint8] = self._restore(labels[None], whole, affine, knee)[0]
        return restored

    def _restore(
        self,
        cropped: Values,
        whole: Values,
        affine: NDArray[np.float64],
        knee: str,
    ) -> Values:
        shape = whole.shape[1:]
        source, place = self._boxes(shape)
        # Writing to the flipped view leaves the array itself in the order of the exam.
        view = whole[:, :: self._step(affine, knee)]
        view[(slice(None), *source)] = cropped[(slice(None), *place)]
        return whole

    def _check_size(self, array: Values, shape: Sequence[int]) -> None:
        if array.shape[1:] != self.size(shape):
            raise InputError(
                f"an array of shape {array.shape[1:]}",
                expected=f"{self.size(shape)}, the input of the network for {tuple(shape)}",
                where="NetworkView.inverse",
                reason=Reason.GRID_MISMATCH,
            )

    def _step(self, affine: NDArray[np.float64], knee: str) -> int:
        """Return -1 if slices must be reversed, else 1."""
        if not self.medial_first:
            return 1
        if knee not in _MEDIAL_X:
            raise InputError(f"knee {knee!r}", expected="left or right", where="NetworkView")
        along = np.asarray(affine, np.float64)[:3, 0]
        if np.abs(along).argmax() != 0 or not abs(along[0]) > 0:
            raise InputError(
                f"slices along LPS ({', '.join(f'{a:g}' for a in along)})",
                expected="sagittal slices, ordered from left to right or from right to left",
                where="affine",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )
        # If the slices run towards the middle of the body, the last slice is the most medial.
        return -1 if along[0] * _MEDIAL_X[knee] > 0 else 1

    def _boxes(self, shape: Sequence[int]) -> tuple[Box, Box]:
        """Return the box of the crop in the exam, and its place in the padded array."""
        source, place = [], []
        for full, cropped in zip(shape, self._cropped_size(shape), strict=True):
            common = min(full, cropped)
            source.append(slice((full - common) // 2, (full - common) // 2 + common))
            place.append(slice((cropped - common) // 2, (cropped - common) // 2 + common))
        return (source[0], source[1], source[2]), (place[0], place[1], place[2])


def _check_volume(array: Values) -> Values:
    array = np.asarray(array)
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"an array of shape {array.shape}", expected="(slice, row, column)", where="NetworkView"
        )
    return array


def _pad(array: Values, size: Size, place: Box) -> Values:
    """Return a new array of this size with `array` at its place and 0 elsewhere."""
    padded = np.full(size, 0, array.dtype)
    padded[place] = array
    return padded


def _block_counts(shape: Sequence[int], block: Size) -> Size:
    """Return the number of blocks along each axis; the last block may be incomplete."""
    a, b, c = (-(-size // n) for size, n in zip(shape, block, strict=True))
    return a, b, c


def _blocks(array: Values, block: Size) -> Values:
    """Return (block, block, block, voxel of the block); incomplete blocks repeat the edge."""
    a, b, c = shape = _block_counts(array.shape, block)
    missing = (k * n - size for k, n, size in zip(shape, block, array.shape, strict=True))
    array = np.pad(array, [(0, more) for more in missing], mode="edge")
    split = array.reshape(a, block[0], b, block[1], c, block[2])
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(*shape, -1)


def _shrink_image(image: NDArray[np.float32], block: Size) -> NDArray[np.float32]:
    return image if max(block) == 1 else _blocks(image, block).mean(axis=-1, dtype=np.float32)


def _majority(labels: Values, block: Size) -> Values:
    blocks = _blocks(labels, block)
    values = np.unique(labels)
    counts = np.stack([np.count_nonzero(blocks == value, axis=-1) for value in values])
    most_frequent: Values = values[counts.argmax(axis=0)]
    return most_frequent


def _enlarge(probabilities: Values, shape: Size, block: Size) -> NDArray[np.float32]:
    """Interpolate probabilities to the finer grid, linearly in log-odds between block centres.

    Probabilities rise from 0 to 1 within one or two blocks. If the probabilities themselves were
    interpolated, boundaries would follow the blocks. Log-odds are approximately linear there.
    """
    odds = np.log(np.clip(probabilities, _MIN_PROBABILITY, 1), dtype=np.float32)
    for axis, (size, n) in enumerate(zip(shape, block, strict=True), start=1):
        at = np.clip((np.arange(size) + 0.5) / n - 0.5, 0, odds.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, odds.shape[axis] - 1)
        share = (at - low).astype(np.float32)
        share = share.reshape([-1 if k == axis else 1 for k in range(4)])
        below = np.take(odds, low, axis=axis)
        odds = below + share * (np.take(odds, high, axis=axis) - below)
    enlarged: NDArray[np.float32] = np.exp(odds)
    enlarged /= enlarged.sum(axis=0)
    return enlarged
