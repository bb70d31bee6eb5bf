"""Training data of a network: batches of prepared volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.segmentation.augmentation.online import augment
from qmri_lake.segmentation.models.recipes import Recipe
from qmri_lake.segmentation.models.vnet import padding
from qmri_lake.segmentation.training.dataset_cache import PHI_STEPS, Sample, SampleCache

if TYPE_CHECKING:
    from qmri_lake.lake.lake import Lake

__all__ = ["SampleSet"]

_MAX_OPEN = 64
"""Number of volumes whose files are kept open."""


class SampleSet:
    """The volumes of one split for one recipe; `prepare` writes those that are not cached yet.

    Parameters
    ----------
    lake : Lake
    exams : sequence of str
        Exam keys.
    recipe : Recipe
    target : str
        The target label array of group ``dess``, such as ``"reference_bone"``.
    cache : Path
        Folder of prepared volumes; existing volumes are reused.
    copies : int
        Number of offline copies of each volume.
    seed : int
        Random seed of the copies; members with the same seed share the copies.

    Raises
    ------
    InputError
        If an exam has no image or no target labels, if the labels belong to another task, or if a
        volume is too small for the network.
    """

    def __init__(
        self,
        lake: Lake,
        exams: Sequence[str],
        recipe: Recipe,
        target: str,
        cache: Path,
        *,
        copies: int = 0,
        seed: int = 0,
    ) -> None:
        self.recipe = recipe
        self.exams = tuple(exams)
        self._cache = SampleCache(lake, recipe, target, cache, seed)
        self._plans = [self._cache.plan(exam, copies) for exam in self.exams]
        self.samples: list[Sample] = [sample for plan in self._plans for sample in plan.samples]
        # Opening the files for every slice is slow, and a process may not open all files at once.
        self._open = lru_cache(_MAX_OPEN)(self._open_sample)

    @property
    def missing_bytes(self) -> int:
        """Bytes that `prepare` will write."""
        return sum(plan.missing_bytes for plan in self._plans)

    @property
    def lacking(self) -> dict[str, list[str]]:
        """For each class, the exams in which it has no voxel on the grid of the network."""
        by_class = {
            name: [plan.exam for plan in self._plans if name in plan.lacking]
            for name in self.recipe.labels
        }
        return {name: exams for name, exams in by_class.items() if exams}

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the volumes that are not in the cache.

        `progress` is called with the number of prepared exams and the number of all exams.
        """
        for done, plan in enumerate(self._plans, start=1):
            self._cache.make(plan)
            if progress is not None:
                progress(done, len(self._plans))

    def __len__(self) -> int:
        return len(self.samples)

    def counts(self) -> NDArray[np.int64]:
        """Count the voxels of each class over all volumes."""
        total = np.zeros(len(self.recipe.labels), np.int64)
        for sample in self.samples:
            total += sample.counts()
        return total

    @property
    def steps(self) -> int:
        """Steps in an epoch of training."""
        return self.recipe.steps or -(-len(self._items()) // self.recipe.batch)

    def batches(
        self, rng: np.random.Generator | None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield one epoch of (image, target), channels last.

        With `rng`, an epoch has `steps` full batches in random order, with the augmentation of the
        recipe. Without `rng`, it has every volume or slice once, unchanged. The next batch is read
        in the background.

        The image is (batch, [slice,] row, column, 1) float32. The target has the label in channel
        0 and phi of each class, 0 to 1, in the following channels. Image and target are padded to
        multiples of the stride of the network.
        """
        with ThreadPoolExecutor(1) as reader:
            pending = None
            for items, seed in self._batch_items(rng):
                submitted = reader.submit(self._batch, items, seed)
                if pending is not None:
                    yield pending.result()
                pending = submitted
            if pending is not None:
                yield pending.result()

    def _batch_items(
        self, rng: np.random.Generator | None
    ) -> Iterator[tuple[list[tuple[int, int]], int | None]]:
        """Yield the items of each batch, (volume, slice or -1), and a seed for its augmentation."""
        items, size = self._items(), self.recipe.batch
        if rng is None:
            for start in range(0, len(items), size):
                yield items[start : start + size], None
            return
        order: list[int] = []
        for _ in range(self.steps):
            while len(order) < size:
                order += rng.permutation(len(items)).tolist()
            yield [items[k] for k in order[:size]], int(rng.integers(2**31))
            order = order[size:]

    def _items(self) -> list[tuple[int, int]]:
        """Return the items of an epoch: (volume, -1), or (volume, slice) for a 2D network."""
        if self.recipe.architecture.rank == 3:
            return [(k, -1) for k in range(len(self))]
        slices = (len(sample.open()[0]) for sample in self.samples)
        return [(k, s) for k, n in enumerate(slices) for s in range(n)]

    def _batch(
        self, items: Sequence[tuple[int, int]], seed: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = None if seed is None else np.random.default_rng(seed)
        images, targets = zip(*(self._item(k, s, rng) for k, s in items), strict=True)
        # Slices of a batch may come from exams of different sizes.
        shape = np.max([image.shape for image in images], axis=0)
        images = tuple(_pad_end(image, shape) for image in images)
        targets = tuple(_pad_end(target, shape) for target in targets)
        return np.stack(images)[..., None], np.stack(targets)

    def _open_sample(self, k: int) -> tuple[Values, ...]:
        """Return image, labels and phi as memory maps, and the voxels of each class."""
        sample = self.samples[k]
        return (*sample.open(), sample.counts())

    def _item(
        self, k: int, index: int, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return one image and its target: the label in channel 0, then phi of every class."""
        sample = self.samples[k]
        image: Values
        weight: Values
        image, labels, phi, counts = self._open(k)
        if index >= 0:
            image, labels, phi = image[index], labels[index], phi[:, index]
            counts = np.bincount(labels.ravel())
        if rng is not None and self.recipe.patch is not None:
            box = _patch(labels, counts, self.recipe.patch, rng)
            image, labels, phi = image[box], labels[box], phi[(slice(None), *box)]
        weight = phi.astype(np.float32) / PHI_STEPS
        if rng is not None and self.recipe.augment:
            if index >= 0:
                flat = augment(
                    image[None],
                    labels[None],
                    weight[:, None],
                    rng,
                    flip=0.0,
                    spacing=sample.spacing[1:],
                )
                image, labels, weight = flat[0][0], flat[1][0], flat[2][:, 0]
            else:
                image, labels, weight = augment(
                    image, labels, weight, rng, spacing=sample.spacing[1:]
                )
        margins = padding(image.shape, self.recipe.architecture.stride)
        image = np.pad(image, margins, mode="edge")
        target = np.concatenate([labels[None].astype(np.float32), weight])
        # The target is padded with edge values like the image: padding beside bone is also bone.
        target = np.pad(target, [(0, 0), *margins], mode="edge")
        return np.asarray(image, np.float32), np.moveaxis(target, 0, -1)


def _pad_end(array: NDArray[np.float32], shape: Values) -> NDArray[np.float32]:
    """Pad the first axes to this shape with edge values, at the end of each axis."""
    more = [(0, int(n) - m) for n, m in zip(shape, array.shape, strict=False)]
    if not any(after for _, after in more):
        return array
    return np.pad(array, more + [(0, 0)] * (array.ndim - len(more)), mode="edge")


def _patch(
    labels: NDArray[np.uint8],
    counts: NDArray[np.int64],
    size: Sequence[int],
    rng: np.random.Generator,
) -> tuple[slice, ...]:
    """Choose a random patch that contains a voxel of a random class.

    All classes, including background, have the same probability, so that rare classes are trained
    as often as frequent classes. [assumption]
    """
    value = rng.choice(np.flatnonzero(counts))
    voxels = np.flatnonzero(labels.ravel() == value)
    voxel = np.unravel_index(voxels[rng.integers(len(voxels))], labels.shape)
    box = []
    for n, patch_size, index in zip(labels.shape, size, voxel, strict=True):
        length = min(n, patch_size)
        start = int(np.clip(index - rng.integers(length), 0, n - length))
        box.append(slice(start, start + length))
    return tuple(box)
