"""What a network sees of an exam, and the exact way back to the exam's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason

__all__ = ["Frame"]

Box = tuple[slice, slice, slice]
Size = tuple[int, int, int]

_SURE = 1e-4
"""A network's smaller probabilities say no more than that it is sure."""

_MEDIAL_X = {"right": 1.0, "left": -1.0}
"""Sign of LPS x towards the middle of the body, for each knee."""


@dataclass(frozen=True)
class Frame:
    """Flip, centre crop and scaling, as a model was trained with them.

    Cartilage networks [P]: ``Frame(True, (140, 344, 344), 85.0)``, that is slices ordered from
    medial to lateral, a centre crop of 344 x 344 x 140 (rows, columns, slices), and division by
    the 85th percentile. An axis that is shorter than the crop is padded on both sides, images and
    labels with 0; of two uneven margins the longer one is at the end, after the flip.
    """

    medial_first: bool
    """Whether slice 0 is the most medial one, so that left and right knees look alike."""
    crop: tuple[int, int, int] | None
    """Slices, rows, columns of what the network sees; None: all of them."""
    percentile: float | None = 85.0
    """Images are divided by this percentile of the voxels that are left; None: as they are."""
    shrink: tuple[int, int, int] = (1, 1, 1)
    """Slices, rows, columns that are averaged into one voxel: less to compute, and coarser. What
    comes back is linear between their centres, in log-odds. [assumption]"""

    def __post_init__(self) -> None:
        if self.crop is not None:
            # From JSON it comes back as a list.
            crop = tuple(int(n) for n in self.crop)
            object.__setattr__(self, "crop", crop)
            if len(crop) != 3 or min(crop) < 1:
                raise InputError(
                    f"crop {crop}", expected="slices, rows and columns above 0", where="Frame"
                )
        object.__setattr__(self, "shrink", tuple(int(n) for n in self.shrink))
        if len(self.shrink) != 3 or min(self.shrink) < 1:
            raise InputError(
                f"shrink {self.shrink}", expected="three whole numbers above 0", where="Frame"
            )
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise InputError(
                f"percentile {self.percentile}", expected="above 0, to 100", where="Frame"
            )

    def size(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return what the network sees of an exam of this shape: slices, rows, columns."""
        return _by_block(self._kept(shape), self.shrink)

    def _kept(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return what is left of an exam after the crop, in its own voxels."""
        return self.crop or (shape[0], shape[1], shape[2])

    def image(
        self, image: NDArray[Any], affine: NDArray[np.float64], knee: str
    ) -> NDArray[np.float32]:
        """Return the image that the network sees.

        Parameters
        ----------
        image : (slice, row, column)
            Signal, finite, any unit.
        affine : (4, 4)
            Voxel (slice, row, column) to LPS mm; read only for the direction of the slices.
        knee : {"left", "right"}

        Returns
        -------
        array of float32, (slice, row, column) of `size`
            Signal as a fraction of the percentile, which is of the voxels of the exam alone, not
            of the padding.

        Raises
        ------
        InputError
            An image that is not finite, or has no signal to divide by; slices that run in no
            medial or lateral direction; another name of a knee.
        """
        image = _volume(image)
        there, here = self._boxes(image.shape)
        seen = image[:: self._step(affine, knee)][there].astype(np.float32)
        if not np.isfinite(seen).all():
            raise InputError(
                f"{np.count_nonzero(~np.isfinite(seen))} voxels that are not finite",
                expected="signal everywhere",
                where="image",
                todo="Crop to the true extent of the exam.",
                reason=Reason.UNREADABLE_VALUE,
            )
        if self.percentile is not None:
            level = np.percentile(seen, self.percentile)
            if not level > 0:
                raise InputError(
                    f"{level:g} as percentile {self.percentile:g} of the image",
                    expected="signal above 0",
                    where="image",
                    todo="Look at the image: it is empty, or nearly so.",
                    reason=Reason.UNREADABLE_VALUE,
                )
            seen /= np.float32(level)
        return _shrunk(_padded(seen, self._kept(image.shape), here, 0), self.shrink)

    def labels(self, labels: NDArray[Any], affine: NDArray[np.float64], knee: str) -> NDArray[Any]:
        """Return labels on the grid that the network sees, 0 where the exam does not reach.

        Of a block of voxels that is shrunk, the label that most of them have.

        Parameters
        ----------
        labels : (slice, row, column)
        affine, knee
            As for `image`.
        """
        labels = _volume(labels)
        there, here = self._boxes(labels.shape)
        seen = labels[:: self._step(affine, knee)][there]
        whole = _padded(seen, self._kept(labels.shape), here, 0)
        return whole if max(self.shrink) == 1 else _majority(whole, self.shrink)

    def back(
        self,
        probabilities: NDArray[Any],
        shape: Sequence[int],
        affine: NDArray[np.float64],
        knee: str,
    ) -> NDArray[Any]:
        """Return class probabilities on the exam's own grid.

        Parameters
        ----------
        probabilities : (class, slice, row, column), 0 to 1
            On the grid that the network sees; class 0 is background.
        shape : (3,)
            The exam's slices, rows, columns.
        affine, knee
            As for `image`.

        Returns
        -------
        array of the same dtype, (class, *shape)
            Certain background outside the crop, since nothing was looked at there.

        Raises
        ------
        InputError
            Probabilities of another size than the network sees of such an exam.
        """
        whole = np.zeros((len(probabilities), *shape), probabilities.dtype)
        whole[0] = 1
        self._check_size(probabilities, shape)
        if max(self.shrink) > 1:
            probabilities = _enlarged(probabilities, self._kept(shape), self.shrink)
        return self._restore(probabilities, whole, affine, knee)

    def back_labels(
        self,
        labels: NDArray[Any],
        shape: Sequence[int],
        affine: NDArray[np.float64],
        knee: str,
    ) -> NDArray[np.uint8]:
        """Return labels (slice, row, column) on the exam's own grid: 0 outside the crop.

        Parameters and errors are those of `back`. Shrunk labels can't be brought back: do so with
        their probabilities.
        """
        if max(self.shrink) > 1:
            raise InputError(
                f"labels shrunk by {self.shrink}", expected="probabilities", where="Frame",
                todo="Use back, and take the class of the highest one.",
            )  # fmt: skip
        self._check_size(labels[None], shape)
        whole = np.zeros((1, *shape), np.uint8)
        restored: NDArray[np.uint8] = self._restore(labels[None], whole, affine, knee)[0]
        return restored

    def _restore(
        self,
        seen: NDArray[Any],
        whole: NDArray[Any],
        affine: NDArray[np.float64],
        knee: str,
    ) -> NDArray[Any]:
        shape = whole.shape[1:]
        there, here = self._boxes(shape)
        # The flipped view is written to, so that the array itself has the exam's order.
        view = whole[:, :: self._step(affine, knee)]
        view[(slice(None), *there)] = seen[(slice(None), *here)]
        return whole

    def _check_size(self, seen: NDArray[Any], shape: Sequence[int]) -> None:
        if seen.shape[1:] != self.size(shape):
            raise InputError(
                f"an array of {seen.shape[1:]}",
                expected=f"{self.size(shape)}, as the network sees an exam of {tuple(shape)}",
                where="Frame.back",
                reason=Reason.GRID_MISMATCH,
            )

    def _step(self, affine: NDArray[np.float64], knee: str) -> int:
        """Return -1 if slices must be reversed, else 1."""
        if not self.medial_first:
            return 1
        if knee not in _MEDIAL_X:
            raise InputError(f"knee {knee!r}", expected="left or right", where="Frame")
        along = np.asarray(affine, np.float64)[:3, 0]
        if np.abs(along).argmax() != 0 or not abs(along[0]) > 0:
            raise InputError(
                f"slices along LPS ({', '.join(f'{a:g}' for a in along)})",
                expected="sagittal slices, which run to the medial or lateral side",
                where="affine",
                reason=Reason.INCONSISTENT_GEOMETRY,
            )
        # Towards the middle with every slice: then the last one is the most medial.
        return -1 if along[0] * _MEDIAL_X[knee] > 0 else 1

    def _boxes(self, shape: Sequence[int]) -> tuple[Box, Box]:
        """Return what is seen of the exam, and where it lies in what the network sees."""
        there, here = [], []
        for full, seen in zip(shape, self._kept(shape), strict=True):
            kept = min(full, seen)
            there.append(slice((full - kept) // 2, (full - kept) // 2 + kept))
            here.append(slice((seen - kept) // 2, (seen - kept) // 2 + kept))
        return (there[0], there[1], there[2]), (here[0], here[1], here[2])


def _volume(array: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(array)
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"an array of {array.shape}", expected="(slice, row, column)", where="Frame"
        )
    return array


def _padded(seen: NDArray[Any], size: tuple[int, int, int], here: Box, fill: int) -> NDArray[Any]:
    """Return a new array of this size with what is seen at its place."""
    padded = np.full(size, fill, seen.dtype)
    padded[here] = seen
    return padded


def _by_block(shape: Sequence[int], block: Size) -> Size:
    """Return how many blocks of voxels an array has, the last ones perhaps not full."""
    a, b, c = (-(-size // n) for size, n in zip(shape, block, strict=True))
    return a, b, c


def _blocks(array: NDArray[Any], block: Size) -> NDArray[Any]:
    """Return (block, block, block, voxel of the block); the edge is repeated to fill the last."""
    a, b, c = shape = _by_block(array.shape, block)
    missing = (k * n - size for k, n, size in zip(shape, block, array.shape, strict=True))
    array = np.pad(array, [(0, more) for more in missing], mode="edge")
    split = array.reshape(a, block[0], b, block[1], c, block[2])
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(*shape, -1)


def _shrunk(image: NDArray[np.float32], block: Size) -> NDArray[np.float32]:
    return image if max(block) == 1 else _blocks(image, block).mean(axis=-1, dtype=np.float32)


def _majority(labels: NDArray[Any], block: Size) -> NDArray[Any]:
    blocks = _blocks(labels, block)
    values = np.unique(labels)
    votes = np.stack([np.count_nonzero(blocks == value, axis=-1) for value in values])
    most: NDArray[Any] = values[votes.argmax(axis=0)]
    return most


def _enlarged(probabilities: NDArray[Any], shape: Size, block: Size) -> NDArray[np.float32]:
    """Return probabilities on the finer grid, log-odds linear between the centres of the blocks.

    Probabilities themselves rise from 0 to 1 within a block or two, so that a boundary between two
    lines of them would lie where the blocks lie; their log-odds are about linear there.
    """
    odds = np.log(np.clip(probabilities, _SURE, 1), dtype=np.float32)
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
