"""What a network is trained on: exams of a lake as it sees them, prepared once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.augment import augment
from qmri_lake.segmentation.distance_maps import distance_maps
from qmri_lake.segmentation.offline import copy_of
from qmri_lake.segmentation.recipes import Recipe
from qmri_lake.segmentation.vnet import padding
from qmri_lake.tissues import NO_MASK

if TYPE_CHECKING:
    import xarray as xr

    from qmri_lake.lake import Lake

__all__ = ["Sample", "SampleSet"]

_PHI_STEPS = 255
"""phi is kept in steps of 1/255: a weight between 1 and 2 needs no more, and disks are finite."""
_ABANDONED = 24 * 3600
"""Seconds after which a half-written sample is nobody's any more."""


@dataclass(frozen=True)
class Sample:
    """One volume as a network sees it, on disk; arrays are read when they are asked for.

    Parameters
    ----------
    folder : Path
        Holds ``image.npy`` (slice, row, column) float32, ``labels.npy`` the same uint8,
        ``phi.npy`` (class, slice, row, column) uint8, in steps of 1/255, and ``counts.npy``
        (class,), voxels.
    spacing : (3,)
        mm along the axes.
    """

    folder: Path
    spacing: tuple[float, float, float]

    def open(self) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image, labels and phi as memory maps: a slice costs no more than a slice."""
        image, labels, phi = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r")
            for name in ("image", "labels", "phi")
        )
        return image, labels, phi

    def counts(self) -> NDArray[np.int64]:
        """Return the number of voxels of each class."""
        found: NDArray[np.int64] = np.load(self.folder / "counts.npy")
        return found


class SampleSet:
    """The volumes of one split, prepared for one recipe.

    Parameters
    ----------
    lake : Lake
    exams : sequence of str
        Exam keys.
    recipe : Recipe
    target : str
        The label array of group ``dess`` to learn, such as ``"reference_bone"``.
    cache : Path
        Where prepared volumes are kept. A volume is found again by what it was made of, so that
        members and later trainings share it.
    copies : int
        Offline copies of each volume beside it.
    seed : int
        Of the copies; the same one lets members share them.
    progress : callable, optional
        Called with (exams that are ready, all exams).

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
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.recipe = recipe
        self.exams = tuple(exams)
        self.samples: list[Sample] = []
        for done, exam in enumerate(self.exams, start=1):
            self.samples += _prepare(lake, exam, recipe, target, cache, copies, seed)
            if progress is not None:
                progress(done, len(self.exams))

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

    def _item(
        self, k: int, index: int, rng: np.random.Generator | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return one image and its target: channel 0 the label, then phi of every class."""
        sample = self.samples[k]
        image: Any
        weight: Any
        image, labels, phi = sample.open()
        if index >= 0:
            image, labels, phi = image[index], labels[index], phi[:, index]
        if rng is not None and self.recipe.patch is not None:
            box = _patch(labels, self.recipe.patch, rng)
            image, labels, phi = image[box], labels[box], phi[(slice(None), *box)]
        weight = phi.astype(np.float32) / _PHI_STEPS
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
    labels: NDArray[np.uint8], size: Sequence[int], rng: np.random.Generator
) -> tuple[slice, ...]:
    """Draw a patch around a voxel of a class, each class as likely as the others.

    A class is drawn first, background included, so that the rare ones are seen as often as the
    common ones, and the rest of the image too. [assumption]
    """
    present = np.flatnonzero(np.bincount(labels.ravel()))
    drawn = rng.choice(present)
    places = np.flatnonzero(labels.ravel() == drawn)
    centre = np.unravel_index(places[rng.integers(len(places))], labels.shape)
    box = []
    for n, wanted, at in zip(labels.shape, size, centre, strict=True):
        kept = min(n, wanted)
        start = int(np.clip(at - rng.integers(kept), 0, n - kept))
        box.append(slice(start, start + kept))
    return tuple(box)


def _prepare(
    lake: Lake, exam: str, recipe: Recipe, target: str, cache: Path, copies: int, seed: int
) -> Iterator[Sample]:
    """Yield an exam's sample and those of its copies, made where the cache lacks them."""
    ds = lake.load("dess", exam=exam).isel(exam=0)
    labels = _labels(ds, exam, recipe, target)
    affine, knee = ds["affine"].values, str(ds["knee"].item())
    padding(_seen(recipe, labels.shape), recipe.architecture.stride)
    a, b, c = (float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    spacing, (i, j, k) = (a, b, c), recipe.frame.shrink
    digest = str(ds["digest"].values) if "digest" in ds else ""
    image = None if digest else _image(ds, exam)
    key = {
        "image": digest if image is None else _digest(image),
        "labels": _digest(labels),
        "affine": affine.tolist(),
        "knee": knee,
        "frame": asdict(recipe.frame),
        "classes": len(recipe.labels),
        "flat": recipe.architecture.rank == 2,
        "layout": 2,
    }
    for number in range(copies + 1):
        made_of = {**key, **({"copy": [number - 1, seed]} if number else {})}
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:20]
        folder = cache / f"{exam}-{name}"
        sample = Sample(folder, (a * i, b * j, c * k))
        if not folder.is_dir():
            if image is None:
                image = _image(ds, exam)
            seen, mask = image, labels
            if number:
                own = [seed, *hashlib.sha256(exam.encode()).digest()[:4]]
                seen, mask, _ = copy_of(image, labels, spacing, number - 1, seed=own)
            _write(
                folder,
                recipe.frame.image(seen, affine, knee),
                recipe.frame.labels(mask, affine, knee),
                sample.spacing,
                len(recipe.labels),
                flat=recipe.architecture.rank == 2,
            )
        yield sample


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _seen(recipe: Recipe, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the size of what the network gets: a 2D one sees no slices."""
    return recipe.frame.size(shape)[3 - recipe.architecture.rank :]


def _labels(ds: xr.Dataset, exam: str, recipe: Recipe, target: str) -> NDArray[Any]:
    """Return the labels to learn, or say what is wrong with them."""
    if "image" not in ds:
        raise _no_image(exam)
    labels: NDArray[Any] | None = ds[target].values if target in ds else None
    if labels is None or not labels.size or (labels == NO_MASK).all():
        raise InputError(
            f"no dess/{target}",
            expected="labels to learn from",
            where=exam,
            todo=f"Import them, qmri-lake ingest-masks ... --as reference, or choose exams that "
            f"have them: cohort.require('dess/{target}').",
            reason=Reason.ABSENT_EXAM,
        )
    known = set(recipe.labels.values())
    if unknown := sorted(set(np.unique(labels).tolist()) - known):
        raise InputError(
            f"label {unknown[0]} in dess/{target}",
            expected=f"0 to {max(known)}: {', '.join(recipe.labels)}",
            where=exam,
            todo="Import the labels again; 255 means that nobody looked there.",
            reason=Reason.UNKNOWN_LABEL,
        )
    return labels


def _image(ds: xr.Dataset, exam: str) -> NDArray[np.float32]:
    image: NDArray[np.float32] = ds["image"].values
    if not np.isfinite(image).any():
        raise _no_image(exam)
    return image


def _no_image(exam: str) -> InputError:
    return InputError(
        "no dess/image",
        expected="an image to learn from",
        where=exam,
        todo="Ingest it, or choose exams that have one: cohort.require('dess/image').",
        reason=Reason.ABSENT_EXAM,
    )


def _write(
    folder: Path,
    image: NDArray[np.float32],
    labels: NDArray[Any],
    spacing: tuple[float, float, float],
    classes: int,
    *,
    flat: bool,
) -> None:
    """Write a sample: whole, or not at all."""
    if flat:
        phi = np.stack([distance_maps(s, classes, spacing[1:]) for s in labels], axis=1)
    else:
        phi = distance_maps(labels, classes, spacing)
    _clean(folder)
    part = folder.with_name(f"{folder.name}.{uuid4().hex[:12]}.part")
    part.mkdir(parents=True)
    try:
        np.save(part / "image.npy", image)
        np.save(part / "labels.npy", labels.astype(np.uint8, copy=False))
        np.save(part / "phi.npy", np.rint(phi * _PHI_STEPS).astype(np.uint8))
        np.save(part / "counts.npy", np.bincount(labels.ravel(), minlength=classes))
        part.rename(folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        # Where another member was faster, its sample is the same.
        if not (isinstance(error, OSError) and folder.is_dir()):
            raise


def _clean(folder: Path) -> None:
    """Remove what killed trainings left of this sample, and nothing that is being written."""
    for part in folder.parent.glob(f"{folder.name}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > _ABANDONED:
                shutil.rmtree(part)
        except FileNotFoundError:
            pass  # another member cleans too, or has finished
