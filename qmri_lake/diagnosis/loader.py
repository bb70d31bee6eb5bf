"""Spherical maps as batches of images for PyTorch: from the lake itself, or from a packed cache."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.diagnosis.cache import Packing, pack
from qmri_lake.diagnosis.map_reader import MapReader, biomarkers_of
from qmri_lake.errors import InputError, QmriLakeError, Reason, RunError
from qmri_lake.fusion import STRATEGIES

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from qmri_lake.cohort import Cohort

__all__ = [
    "Batch", "SeededOrder", "SphereImages", "class_weights", "make_loader", "on_device",
]  # fmt: skip

_CLASSES = (0, 1)
_STARTS = ("forkserver", "spawn")
_NAMED = 10


class Batch(NamedTuple):
    """Images, what they show, and where they come from."""

    image: torch.Tensor
    """(n, channel, azimuth, polar) float32, as `qmri_lake.fusion.merge` makes it."""
    label: torch.Tensor | None
    """(n,) int64: 0 absent, 1 present; None where no labels were given."""
    position: torch.Tensor
    """(n,) int64: positions in the dataset's `exams`."""


class SphereImages:
    """Images of one bone by one strategy: a map-style dataset for PyTorch.

    Nothing of the lake is copied: maps are read when a batch is asked for, all of it in one read.
    With `cache`, they are read once, and packed. The lake is opened in the process that reads.

    Parameters
    ----------
    cohort : Cohort
        The exams, in their order.
    labels : mapping or Series, optional
        0 or 1 by exam key; others than the cohort's are passed over. Default: images to predict.
    strategy : str
        One of `qmri_lake.fusion.STRATEGIES`, with `qmri_lake.fusion.SCALES`.
    bone : {"patella", "tibia", "femur"}
    size : int
        Pixels along azimuth and polar angle: 224 as the maps are, or fewer by averages over areas,
        after maps were merged, so that no value counts as 0 [assumption].
    cache : path, optional
        A folder of packed maps, which all strategies share; see `qmri_lake.diagnosis.cache.pack`.
    dtype : {"float16", "float32"}
        Of the cache.

    Raises
    ------
    NotFoundError
        No maps in the lake, no such bone or strategy.
    InputError
        A cohort of zero; exams without a label, labels other than 0 and 1, one class only; exams
        without a map of the bone, and with `cache` also those without any value in one. Straight
        from the lake, the latter are told when their batch is read.

    Examples
    --------
    >>> images = SphereImages(cohort, labels, strategy="all", bone="femur")  # doctest: +SKIP
    >>> for batch in make_loader(images, batch=300, workers=4):  # doctest: +SKIP
    ...     logits = model(batch.image)
    """

    def __init__(
        self,
        cohort: Cohort,
        labels: Mapping[str, Any] | pd.Series[Any] | None = None,
        *,
        strategy: str,
        bone: str,
        size: int = 224,
        cache: str | os.PathLike[str] | None = None,
        dtype: Packing = "float16",
    ) -> None:
        if not len(cohort):
            raise InputError(
                "a cohort of 0 exams", expected="exams with maps", where=cohort.lake.url,
                todo="cohort.flow() tells where they went.", reason=Reason.ABSENT_EXAM,
            )  # fmt: skip
        self.strategy, self.bone, self.size = strategy, bone, size
        self._biomarkers = biomarkers_of(strategy)
        self._reader = MapReader(cohort.lake, bone, size)
        keys = cohort.exams
        self.exams: tuple[str, ...] = tuple(map(str, keys["exam"]))
        self.label = None if labels is None else _labels_of(keys, labels)
        self._rows = np.asarray(cohort.rows, np.intp)
        self._reader.check(self._rows)
        self._packed: list[Path] = []
        self._opened: list[torch.Tensor] = []
        if cache is not None:
            self._packed = pack(
                self._reader, self._rows, self.exams, self._biomarkers, cache, dtype
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": []}  # memory maps would travel as what they hold

    @property
    def url(self) -> str:
        """Of the lake."""
        return self._reader.url

    @property
    def snapshot(self) -> str:
        """Of the lake, whose maps these are."""
        return self._reader.snapshot

    def __len__(self) -> int:
        return len(self.exams)

    def __getitem__(self, index: int) -> Batch:
        """Return one image (channel, azimuth, polar), its label and position, without a batch."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image, label, place = self.__getitems__([index % len(self)])
        return Batch(image[0], None if label is None else label[0], place[0])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return images as one batch, already collated."""
        import torch

        index = np.asarray(indices, np.intp)
        image = torch.empty((len(index), 3, self.size, self.size))
        planes, rows = self._planes(index)
        for channel, name in enumerate(STRATEGIES[self.strategy]):
            if name is None:
                image[:, channel] = 0
                continue
            plane = planes[self._biomarkers.index(name)]
            # One by one: gathered first, they would be written and read once more.
            for place, row in zip(image[:, channel], rows, strict=True):
                place.copy_(plane[row])
        label = None if self.label is None else torch.from_numpy(self.label[index])
        return Batch(image, label, torch.from_numpy(index.astype(np.int64)))

    def _planes(self, index: NDArray[np.intp]) -> tuple[list[torch.Tensor], Sequence[int]]:
        """Return images by biomarker, and where in them those at `index` are."""
        import torch

        if not self._packed:
            read = torch.from_numpy(self._reader.read(self._rows[index], self._biomarkers))
            return list(read.unbind(1)), range(len(index))
        if not self._opened:
            # Mapped to be copied when written, which nobody does: torch has no read-only arrays.
            maps = (np.asarray(np.load(path, mmap_mode="c")) for path in self._packed)
            self._opened = [torch.from_numpy(packed) for packed in maps]
        return self._opened, index.tolist()


def _labels_of(keys: pd.DataFrame, labels: Mapping[str, Any] | pd.Series[Any]) -> NDArray[np.int64]:
    exams = [str(key) for key in keys["exam"]]
    given = labels.to_dict() if isinstance(labels, pd.Series) else labels
    if isinstance(labels, pd.Series) and len(given) < len(labels):
        twice = labels.index[labels.index.duplicated()][0]
        raise _wrong_labels(f"two labels of {twice}", "one an exam")
    values = [given.get(exam) for exam in exams]
    without = np.flatnonzero(pd.isna(pd.Series(values, dtype=object)))
    if without.size:
        patients = keys["patient"].to_numpy()[without]
        names = ", ".join(exams[row] for row in without[:_NAMED])
        more = f" and {without.size - _NAMED:,} more" if without.size > _NAMED else ""
        many = np.unique(patients).size
        raise _wrong_labels(
            f"{many:,} patient{'s' * (many > 1)} without a label, exams {names}{more}",
            "a label for each exam", "Leave them out of the cohort, or label them.",
        )  # fmt: skip
    odd = [
        (exam, value) for exam, value in zip(exams, values, strict=True) if value not in _CLASSES
    ]
    if odd:
        raise _wrong_labels(f"label {odd[0][1]!r} of {odd[0][0]}", "0 (absent) or 1 (present)")
    found = np.array([int(value) for value in values], np.int64)  # type: ignore[arg-type]
    if len(set(found.tolist())) < len(_CLASSES):
        what = "present" if found[0] else "absent"
        raise _wrong_labels(
            f"one class only ({len(found):,} exams, all {what})", "both", "Choose another cohort."
        )
    return found


def _wrong_labels(found: str, expected: str, todo: str = "") -> InputError:
    return InputError(
        found, expected=expected, where="labels", todo=todo, reason=Reason.UNREADABLE_VALUE
    )


def class_weights(images: SphereImages) -> torch.Tensor:
    """Return what each class counts for in a loss that is weighted by imbalance.

    Parameters
    ----------
    images : SphereImages
        With labels: those of the training set.

    Returns
    -------
    (2,) float32
        n / (2 n_class), so that both classes weigh the same [paper] and images count 1 on
        average [assumption].

    Raises
    ------
    RunError
        Images without labels.
    """
    import torch

    if images.label is None:
        raise RunError("images without labels", expected="those to train on", where="class_weights")
    counts = np.bincount(images.label, minlength=len(_CLASSES))
    return torch.from_numpy((len(images) / (len(_CLASSES) * counts)).astype(np.float32))


class SeededOrder:
    """The order of each epoch: another one every time, and always the same for a seed.

    Parameters
    ----------
    count : int
    seed : int
    shuffle : bool
        Default: each epoch in an order of its own.

    Attributes
    ----------
    epoch : int
        The next one's number; it rises by itself. A training that goes on sets it.
    """

    def __init__(self, count: int, seed: int, *, shuffle: bool = True) -> None:
        self.count, self.seed, self.shuffle, self.epoch = count, seed, shuffle, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if not self.shuffle:
            return iter(range(self.count))
        return iter(np.random.default_rng([self.seed, epoch]).permutation(self.count).tolist())


def make_loader(
    images: SphereImages,
    *,
    batch: int,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 0,
    start_method: str = "forkserver",
) -> DataLoader[Any]:
    """Return PyTorch's loader of batches; each epoch visits each image once.

    Parameters
    ----------
    images : SphereImages
    batch : int
        Images in a batch; the last one of an epoch may be smaller.
    shuffle : bool
        Default: an order of its own in every epoch, by `seed`; see `SeededOrder`, which is
        ``loader.sampler``.
    seed : int
    workers : int
        Processes that read; 0 reads in this one. They stay from epoch to epoch. A script that uses
        them guards its main part by ``if __name__ == "__main__"``.
    start_method : {"forkserver", "spawn"}
        Of the workers. A fork would hang: it inherits an open store whose threads it has not.

    Returns
    -------
    DataLoader
        Of `Batch`, in pinned memory where there is a GPU.

    Raises
    ------
    RunError
        Another start method.
    """
    import torch

    if start_method not in _STARTS:
        raise RunError(
            f"start method {start_method!r}", expected=" or ".join(_STARTS), where="make_loader",
            todo="A forked worker would hang." if start_method == "fork" else "",
        )  # fmt: skip
    of_workers: dict[str, Any] = {}
    if workers:
        context = multiprocessing.get_context(start_method)
        if start_method == "forkserver":
            # Imported once, by the server, before any store is open: not by each worker again.
            context.set_forkserver_preload(["torch", "qmri_lake.lake", __name__])
        of_workers = {"persistent_workers": True, "multiprocessing_context": context}
    return _loader_class()(
        _Told(images),  # type: ignore[arg-type]
        batch_size=batch,
        sampler=SeededOrder(len(images), seed, shuffle=shuffle),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # else each epoch draws from the global one
        **of_workers,
    )


class _Told:
    """Images whose errors are returned: one that a worker raises would come with its traceback."""

    def __init__(self, images: SphereImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch | QmriLakeError:
        try:
            return self.images.__getitems__(indices)
        except QmriLakeError as error:
            return error


@functools.cache
def _loader_class() -> type[DataLoader[Any]]:
    from torch.utils.data import DataLoader

    class Loader(DataLoader[Any]):
        """PyTorch's loader of `_Told`: errors are raised here, as they are."""

        def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
            for batch in super().__iter__():
                if isinstance(batch, QmriLakeError):
                    raise batch
                yield batch

    return Loader


def _as_it_is(batch: Any) -> Any:
    return batch


def _to(batch: Batch, device: torch.device, *, non_blocking: bool = False) -> Batch:
    image, label, position = (
        None if part is None else part.to(device, non_blocking=non_blocking) for part in batch
    )
    return Batch(image, label, position)  # type: ignore[arg-type]


def on_device(batches: DataLoader[Any], device: str | torch.device) -> Iterator[Batch]:
    """Yield batches on a device; on a GPU the next one is copied while this one is computed with.

    Parameters
    ----------
    batches : DataLoader
        Of `make_loader`, whose pinned memory makes the copy possible.
    device : str or device

    Yields
    ------
    Batch
    """
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        for batch in batches:
            yield _to(batch, device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = _to(batch, device, non_blocking=True)
        if ahead is not None:
            yield ahead
        torch.cuda.current_stream(device).wait_stream(stream)
        for part in coming:
            if part is not None:  # else its memory is another's before the model has read it
                part.record_stream(torch.cuda.current_stream(device))
        ahead = coming
    if ahead is not None:
        yield ahead
