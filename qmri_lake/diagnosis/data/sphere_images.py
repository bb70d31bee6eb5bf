"""Read spherical maps from a lake or a cache as batches of images for PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.diagnosis.data.map_reader import MapReader
from qmri_lake.diagnosis.data.packed_maps import Packing, pack
from qmri_lake.diagnosis.models.batches import CLASSES, Batch
from qmri_lake.errors import InputError, Reason
from qmri_lake.fusion import biomarkers_of, channels_of

if TYPE_CHECKING:
    import torch

    from qmri_lake.lake.cohort import Cohort

__all__ = ["SphereImages"]

_NAMED = 10


class SphereImages:
    """Images of one bone and one strategy: a map-style dataset for PyTorch.

    When a batch is requested, all maps of the batch are read from the lake at once. With `cache`,
    all maps are read only once and stored in files. Each process opens the lake itself.

    Parameters
    ----------
    cohort : Cohort
        The exams; images have the same order.
    labels : mapping or Series, optional
        Labels, 0 or 1, by exam key. Exams that are not in the cohort are ignored. Default: no
        labels.
    strategy : str
        One of `qmri_lake.fusion.STRATEGIES`, or biomarkers joined by ``+``, such as
        ``thickness+t1rho``: see `qmri_lake.fusion.channels_of`. Values are divided by the scale of
        the biomarker.
    bone : {"patella", "tibia", "femur"}
    size : int
        Number of pixels along azimuth and polar angle. The maps have 224; smaller images are
        averages over areas, in which pixels without a value count as 0 [assumption].
    cache : path, optional
        Folder of cached maps, shared by all strategies: see
        `qmri_lake.diagnosis.data.packed_maps.pack`. Default: no cache.
    dtype : {"float16", "float32"}
        Type of the values in the cache.

    Raises
    ------
    NotFoundError
        If the lake has no maps, or the bone or strategy is unknown.
    InputError
        If the cohort is empty; if an exam has no label, a label is not 0 or 1, or all labels are
        equal; if an exam has no map of the bone, or its map has no values. Maps without values are
        detected here if `cache` is given, and otherwise when the batch is read.

    Examples
    --------
    >>> images = SphereImages(cohort, labels, strategy="all", bone="femur")  # doctest: +SKIP
    >>> for batch in make_loader(images, batch=300, workers=4):  # doctest: +SKIP
    ...     logits = model(batch.image)
    """

    def __init__(
        self,
        cohort: Cohort,
        labels: Mapping[str, object] | pd.Series | None = None,
        *,
        strategy: str,
        bone: str,
        size: int = 224,
        cache: str | os.PathLike[str] | None = None,
        dtype: Packing = "float16",
    ) -> None:
        if not len(cohort):
            raise InputError(
                "empty cohort",
                expected="exams with maps",
                where=cohort.lake.url,
                todo="cohort.flow() lists the exclusions.",
                reason=Reason.ABSENT_EXAM,
            )
        self.strategy, self.bone, self.size = strategy, bone, size
        self._biomarkers = biomarkers_of(strategy)
        self._reader = MapReader(cohort.lake, bone, size)
        keys = cohort.exams
        self.exams: tuple[str, ...] = tuple(map(str, keys["exam"]))
        self.label = None if labels is None else _check_labels(keys, labels)
        self._rows = np.asarray(cohort.rows, np.intp)
        self._reader.check(self._rows, self._biomarkers)
        self._packed: list[Path] = []
        self._opened: list[torch.Tensor] = []
        if cache is not None:
            self._packed = pack(
                self._reader, self._rows, self.exams, self._biomarkers, cache, dtype
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": []}  # pickled memory maps would contain their values

    @property
    def url(self) -> str:
        """Address of the lake."""
        return self._reader.url

    @property
    def snapshot(self) -> str:
        """Snapshot of the lake."""
        return self._reader.snapshot

    def __len__(self) -> int:
        return len(self.exams)

    def __getitem__(self, index: int) -> Batch:
        """Return one image (channel, azimuth, polar), its label and its position."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        image, label, position = self.__getitems__([index % len(self)])
        return Batch(image[0], None if label is None else label[0], position[0])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return images as one batch, already collated."""
        import torch

        index = np.asarray(indices, np.intp)
        image = torch.empty((len(index), 3, self.size, self.size))
        planes, rows = self._planes(index)
        for channel, name in enumerate(channels_of(self.strategy)):
            if name is None:
                image[:, channel] = 0
                continue
            plane = planes[self._biomarkers.index(name)]
            # Exams are copied one by one, to avoid a copy of the whole batch.
            for target, row in zip(image[:, channel], rows, strict=True):
                target.copy_(plane[row])
        label = None if self.label is None else torch.from_numpy(self.label[index])
        return Batch(image, label, torch.from_numpy(index.astype(np.int64)))

    def _planes(self, index: NDArray[np.intp]) -> tuple[list[torch.Tensor], Sequence[int]]:
        """Return an array of maps per biomarker, and the rows of the exams at `index` in it."""
        import torch

        if not self._packed:
            read = torch.from_numpy(self._reader.read(self._rows[index], self._biomarkers))
            return list(read.unbind(1)), range(len(index))
        if not self._opened:
            # Copy-on-write, since torch has no read-only arrays; nothing is ever written.
            maps = (np.asarray(np.load(path, mmap_mode="c")) for path in self._packed)
            self._opened = [torch.from_numpy(packed) for packed in maps]
        return self._opened, index.tolist()


def _check_labels(
    keys: pd.DataFrame, labels: Mapping[str, object] | pd.Series
) -> NDArray[np.int64]:
    exams = [str(key) for key in keys["exam"]]
    given = labels.to_dict() if isinstance(labels, pd.Series) else labels
    if isinstance(labels, pd.Series) and len(given) < len(labels):
        twice = labels.index[labels.index.duplicated()][0]
        raise _label_error(f"two labels of {twice}", "one label for each exam")
    values = [given.get(exam) for exam in exams]
    without = np.flatnonzero(pd.isna(pd.Series(values, dtype=object)))
    if without.size:
        patients = keys["patient"].to_numpy()[without]
        names = ", ".join(exams[row] for row in without[:_NAMED])
        more = f" and {without.size - _NAMED:,} more" if without.size > _NAMED else ""
        many = np.unique(patients).size
        raise _label_error(
            f"{many:,} patient{'s' * (many > 1)} without a label, exams {names}{more}",
            "a label for each exam",
            "Exclude them from the cohort, or label them.",
        )
    odd = [(exam, value) for exam, value in zip(exams, values, strict=True) if value not in CLASSES]
    if odd:
        raise _label_error(f"label {odd[0][1]!r} of {odd[0][0]}", "0 (absent) or 1 (present)")
    found = np.array([int(value) for value in values], np.int64)  # type: ignore[arg-type]
    if len(set(found.tolist())) < len(CLASSES):
        name = "present" if found[0] else "absent"
        raise _label_error(
            f"the label of all {len(found):,} exams is {name}",
            "both labels",
            "Choose another cohort.",
        )
    return found


def _label_error(found: str, expected: str, todo: str = "") -> InputError:
    return InputError(
        found, expected=expected, where="labels", todo=todo, reason=Reason.UNREADABLE_VALUE
    )
