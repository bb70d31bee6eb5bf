"""What a network is trained on: exams of a lake as it sees them, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.segmentation.augment import augment
from qmri_lake.segmentation.recipes import Recipe
from qmri_lake.segmentation.sample_cache import PHI_STEPS, Sample, SampleCache
from qmri_lake.segmentation.vnet import padding

if TYPE_CHECKING:
    from qmri_lake.lake import Lake

__all__ = ["SampleSet"]

_OPEN = 64
"""Volumes whose files are kept open."""


class SampleSet:
    """The volumes of one split, for one recipe: planned when it is made, written by `prepare`.

    Parameters
    ----------
    lake : Lake
    exams : sequence of str
        Exam keys.
    recipe : Recipe
    target : str
        The label array of group ``dess`` to learn, such as ``"reference_bone"``.
    cache : Path
        Where prepared volumes are kept, and found again.
    copies : int
        Offline copies of each volume beside it.
    seed : int
        Of the copies; the same one lets members share them.

    Raises
    ------
    InputError
        An exam without image or without these labels, labels of another kind, or a volume that is
        too small for the network.
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
        # Opened anew each time, a slice would cost more than it holds; all at once, more files
        # than a process may have.
        self._open = lru_cache(_OPEN)(self._opened)

    @property
    def missing_bytes(self) -> int:
        """What `prepare` would write."""
        return sum(plan.missing_bytes for plan in self._plans)

    @property
    def lacking(self) -> dict[str, list[str]]:
        """Exams without a voxel of a class, as the network sees them, by class."""
        found = {
            name: [plan.exam for plan in self._plans if name in plan.lacking]
            for name in self.recipe.labels
        }
        return {name: exams for name, exams in found.items() if exams}

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the volumes that the cache lacks.

        `progress` is called with (exams that are ready, all exams).
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

        With `rng` in random order, `steps` full batches, and augmented as the recipe says; without,
        every volume or slice once and as it is. The next batch is read while the present one is
        being used.

        The image is (batch, [slice,] row, column, 1) float32; the target has the label in channel
        0 and phi of each class, 0 to 1, behind it. Both are padded to the network's stride.
        """
        drawn = self._drawn(rng)
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for items, seed in drawn:
                following = reader.submit(self._batch, items, seed)
                if coming is not None:
                    yield coming.result()
                coming = following
            if coming is not None:
                yield coming.result()

    def _drawn(
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
        """Return what an epoch is made of: (volume, -1), or (volume, slice) for a 2D network."""
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
        images = tuple(_enlarged(image, shape) for image in images)
        targets = tuple(_enlarged(target, shape) for target in targets)
        return np.stack(images)[..., None], np.stack(targets)

    def _opened(self, k: int) -> tuple[NDArray[Any], ...]:
        """Return image, labels, phi and the voxels of each class, as `Sample` does."""
        sample = self.samples[k]
        return (*sample.open(), sample.counts())

    def _item(
        self, k: int, index: int, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return one image and its target: channel 0 the label, then phi of every class."""
        sample = self.samples[k]
        image: Any
        weight: Any
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
                    image[None], labels[None], weight[:, None], rng, flip=0.0,
                    spacing=sample.spacing[1:],
                )  # fmt: skip
                image, labels, weight = flat[0][0], flat[1][0], flat[2][:, 0]
            else:
                image, labels, weight = augment(
                    image, labels, weight, rng, spacing=sample.spacing[1:]
                )
        margins = padding(image.shape, self.recipe.architecture.stride)
        image = np.pad(image, margins, mode="edge")
        target = np.concatenate([labels[None].astype(np.float32), weight])
        # As the image: what it repeats at the edge is no background.
        target = np.pad(target, [(0, 0), *margins], mode="edge")
        return np.asarray(image, np.float32), np.moveaxis(target, 0, -1)


def _enlarged(array: NDArray[np.float32], shape: NDArray[Any]) -> NDArray[np.float32]:
    """Repeat the edge at the end of the first axes until they have this size."""
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
    """Draw a patch around a voxel of a class, each class as likely as the others.

    A class is drawn first, background included, so that the rare ones are seen as often as the
    common ones, and the rest of the image too. [assumption]
    """
    drawn = rng.choice(np.flatnonzero(counts))
    places = np.flatnonzero(labels.ravel() == drawn)
    centre = np.unravel_index(places[rng.integers(len(places))], labels.shape)
    box = []
    for n, wanted, at in zip(labels.shape, size, centre, strict=True):
        kept = min(n, wanted)
        start = int(np.clip(at - rng.integers(kept), 0, n - kept))
        box.append(slice(start, start + kept))
    return tuple(box)
