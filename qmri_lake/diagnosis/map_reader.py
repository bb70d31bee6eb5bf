"""Maps of one bone straight from Zarr: a batch in one read, scaled, 0 where there is no value."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, NotFoundError, Reason, RunError, did_you_mean
from qmri_lake.fusion import SCALES, STRATEGIES
from qmri_lake.summary import counted

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["BLOCK", "MapReader", "area_average", "biomarkers_of", "with_maps"]

BLOCK = 64
"""Exams that are read at once where all are read: 40 MB of maps."""
_EMPTY: dict[tuple[str, str, bytes], NDArray[np.bool_]] = {}
"""What `MapReader.empty` has found, by snapshot, bone and rows: a byte an exam and biomarker."""
_NAMED = 10
"""Exams that an error names; of more it says how many."""


def biomarkers_of(strategy: str) -> list[str]:
    """Return the biomarkers that a strategy needs, each once, in the order of its channels.

    >>> biomarkers_of("thickness+t2")
    ['thickness', 't2']
    """
    if strategy not in STRATEGIES:
        raise NotFoundError(
            f"no strategy {strategy!r}", expected=f"one of {', '.join(STRATEGIES)}",
            where="spherical images", todo=did_you_mean(str(strategy), tuple(STRATEGIES)),
        )  # fmt: skip
    return [name for name in dict.fromkeys(STRATEGIES[strategy]) if name is not None]


class MapReader:
    """Reads maps of one bone of a lake at its snapshot, in whatever process it finds itself.

    It travels to workers by its lake's address: an Icechunk store that was opened before a fork
    hangs its children.

    Parameters
    ----------
    lake : Lake
    bone : str
        Of group ``sphere``: patella, tibia, femur.
    size : int, optional
        Pixels along azimuth and polar angle: those of the maps, or fewer, by averages over areas
        of the map with 0 where it has no value [assumption].

    Raises
    ------
    NotFoundError
        A lake without maps, or without that bone.
    InputError
        More pixels than the maps have, or none.
    """

    def __init__(self, lake: Lake, bone: str, size: int | None = None) -> None:
        if "sphere" not in lake.groups():
            raise NotFoundError(
                "no group 'sphere'", expected="spherical maps", where=lake.url,
                todo="Make them: lake.run('sphere').",
            )  # fmt: skip
        group = lake.root["sphere"]
        bones, biomarkers = ([str(n) for n in group[name][:]] for name in ("bone", "biomarker"))
        if bone not in bones:
            raise NotFoundError(
                f"no bone {bone!r}", expected=f"one of {', '.join(bones)}", where=lake.url,
                todo=did_you_mean(str(bone), bones),
            )  # fmt: skip
        full = int(group["map"].shape[-1])
        size = full if size is None else size
        if not 1 <= size <= full:
            raise InputError(f"{size} pixels", expected=f"1 to {full}", where="spherical images")
        self.url, self.snapshot = lake.location, lake.snapshot
        self.bone, self.size = bone, size
        self._place, self._biomarkers, self._full = bones.index(bone), biomarkers, full
        self._root: Any = lake.root
        self._process: int | None = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_root": None, "_process": None}

    def _opened(self) -> Any:
        from qmri_lake.lake import open_lake

        if self._process not in (None, os.getpid()):
            raise RunError(
                "a worker that was forked", expected="one of forkserver or spawn",
                where=self.url, todo="Make the loader by make_loader: a fork would hang.",
            )  # fmt: skip
        if self._root is None:
            self._root = open_lake(self.url, ref=self.snapshot, mode="r").root
            self._process = os.getpid()
        return self._root

    def read(self, rows: NDArray[np.intp], biomarkers: Sequence[str]) -> NDArray[np.float32]:
        """Read maps as channels of images are made of them.

        Parameters
        ----------
        rows : (n,) int
            Positions on the lake's exam axis, in any order.
        biomarkers : sequence of str

        Returns
        -------
        (n, biomarker, azimuth, polar) float32
            Divided by `qmri_lake.fusion.SCALES`, not clipped; 0 where there is no value.

        Raises
        ------
        InputError
            Exams without any value of a biomarker: an image of zeros would teach that.
        """
        planes, empty = self._read(rows, biomarkers)
        if empty.any():
            for k, name in enumerate(biomarkers):
                self._refuse(rows[empty[:, k]], f"{name.replace('_', ' ')} of the {self.bone}")
        return planes

    def _read(
        self, rows: NDArray[np.intp], biomarkers: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        maps = _at_once(self._opened()["sphere/map"], rows, self._place)
        places = [self._biomarkers.index(name) for name in biomarkers]
        scales = [np.float32(SCALES[name]) for name in biomarkers]
        planes = np.empty((len(rows), len(biomarkers), self.size, self.size), np.float32)
        empty = np.empty((len(rows), len(biomarkers)), bool)
        scaled = np.empty((self._full, self._full), np.float32)
        for row, exam in enumerate(maps):  # one by one, in the processor's cache
            for k, (place, scale) in enumerate(zip(places, scales, strict=True)):
                absent = np.isnan(exam[place])
                empty[row, k] = absent.all()
                np.divide(exam[place], scale, out=scaled)
                np.copyto(scaled, 0.0, where=absent)
                planes[row, k] = area_average(scaled, self.size)
        return planes, empty

    def empty(self, rows: NDArray[np.intp], biomarkers: Sequence[str]) -> NDArray[np.bool_]:
        """Tell of which biomarkers exams lack all values; every map is read, once a process.

        Returns
        -------
        (n, biomarker) bool
        """
        # Eighteen models of six strategies ask for the same exams of three bones.
        key = (self.snapshot, self.bone, rows.tobytes())
        if key not in _EMPTY:
            blocks = [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]
            array = self._opened()["sphere/map"]
            found = [
                ~np.isfinite(exam).any(axis=(-2, -1))
                for block in blocks
                for exam in _at_once(array, block, self._place)
            ]
            _EMPTY[key] = np.asarray(found, bool).reshape(len(rows), len(self._biomarkers))
        places = [self._biomarkers.index(name) for name in biomarkers]
        return _EMPTY[key][:, places]

    def check(self, rows: NDArray[np.intp]) -> None:
        """Refuse exams whose maps of the bone were never made, by the status beside them.

        Raises
        ------
        InputError
            They are named.
        """
        status = self._opened()["sphere/map_status"]
        meanings = str(status.attrs["flag_meanings"]).split()
        made = [
            v for v, m in zip(status.attrs["flag_values"], meanings, strict=True) if m != "absent"
        ]
        self._refuse(rows[~np.isin(status[:][rows, self._place], made)], f"map of the {self.bone}")

    def _refuse(self, rows: NDArray[np.intp], what: str) -> None:
        if not len(rows):
            return
        names = [str(n) for n in self._opened()["exam"].oindex[np.sort(rows)[:_NAMED]]]
        more = f" and {len(rows) - len(names):,} more" if len(rows) > len(names) else ""
        raise InputError(
            f"no {what} in {counted(len(rows), 'exam')}: {', '.join(names)}{more}",
            expected="maps with a value",
            where=self.url,
            todo="Choose the exams that have them: with_maps(cohort, strategy, bone).",
            reason=Reason.ABSENT_EXAM,
        )


def _at_once(array: Any, rows: NDArray[np.intp], place: int) -> list[NDArray[np.float32]]:
    """Ask for a chunk of each row, all at once: a batch waits for its slowest, not for their sum.

    An index of all rows would ask likewise, but gathers element by element: 1.3 times the time.
    """

    async def every() -> list[NDArray[np.float32]]:
        chunks = (array.async_array.getitem((int(row), place)) for row in rows)
        return list(await asyncio.gather(*chunks))

    found: list[NDArray[np.float32]]
    found = asyncio.run_coroutine_threadsafe(every(), _loop(os.getpid())).result()
    return found


@functools.cache
def _loop(_process: int) -> asyncio.AbstractEventLoop:
    """Return a loop that runs aside, one a process: a notebook's own one is busy with its cells."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="map reader", daemon=True).start()
    return loop


def area_average(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Average square images over areas, where a pixel may count in part.

    Parameters
    ----------
    images : (..., n, n) float32
    size : int
        At most n.

    Returns
    -------
    (..., size, size) float32
        Sums by element, in one order: the same image whatever others lie beside it.

    Examples
    --------
    >>> area_average(np.array([[0, 3, 6], [0, 3, 6], [0, 3, 6]], np.float32), 2).tolist()
    [[1.0, 5.0], [1.0, 5.0]]
    """
    if size == images.shape[-1]:
        return images
    first, weights = _areas(images.shape[-1], size)
    for axis in (-1, -2):
        last = images.shape[axis] - 1
        sums: NDArray[np.float32] = np.zeros((), np.float32)
        for k, weight in enumerate(weights):
            part = np.take(images, np.minimum(first + k, last), axis=axis)
            sums = sums + part * (weight if axis == -1 else weight[:, None])
        images = sums
    return images


def _areas(full: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the first pixel under each area, and the part of the area of it and its followers."""
    edges = np.arange(size + 1) * full / size
    first = np.floor(edges[:-1]).astype(np.intp)
    count = int(np.max(np.ceil(edges[1:]) - first))
    pixels = first + np.arange(count)[:, None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return first, (np.clip(overlap, 0, None) * size / full).astype(np.float32)


def with_maps(cohort: Cohort, strategy: str, bone: str) -> Cohort:
    """Keep the exams that have a value of each biomarker of a strategy, on a bone; reads all maps.

    Parameters
    ----------
    cohort : Cohort
    strategy : str
        One of `qmri_lake.fusion.STRATEGIES`.
    bone : str

    Returns
    -------
    Cohort
        How many went, and why, is in its flow.

    Raises
    ------
    NotFoundError
        A lake without maps, or without that bone or strategy.
    """
    needed = biomarkers_of(strategy)
    reader = MapReader(cohort.lake, bone)
    kept = cohort.rows[~reader.empty(cohort.rows, needed).any(axis=1)]
    keys = cohort.lake.keys_at(kept)["exam"]
    return cohort.of_exams([str(key) for key in keys], f"{strategy} maps of the {bone} have values")
