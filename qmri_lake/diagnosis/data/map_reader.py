"""Read batches of maps of one bone from Zarr; maps are scaled, and missing values are 0."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.diagnosis.models.images import area_average
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.fusion import BIOMARKER_TABLE, biomarkers_of, find_biomarker
from qmri_lake.store.snapshot import Snapshot, open_snapshot
from qmri_lake.surface.spherical_grid import BONES

if TYPE_CHECKING:
    import zarr

    from qmri_lake.lake.cohort import Cohort

__all__ = ["BLOCK", "MapReader", "with_all_maps", "with_maps"]

BLOCK = 64
"""Number of exams that are read at once when all maps are read; their maps take 40 MB."""
_EMPTY_MAPS: dict[tuple[str, str, bytes, str], NDArray[np.bool_]] = {}
"""Cached results (exam, biomarker) of `MapReader.empty`, by snapshot, bone, rows and array."""
_NAMED = 10
"""Maximum number of exams that an error message lists."""


class MapReader:
    """Reader of the maps of one bone, at a snapshot of a lake.

    A pickled reader contains only the address of the lake, and each worker opens the store itself.
    An Icechunk store that was opened before a fork would deadlock in the child.

    Parameters
    ----------
    lake : Snapshot
        A snapshot of a lake, such as a `Lake`.
    bone : str
        A bone of group ``sphere``: patella, tibia or femur.
    size : int, optional
        Number of pixels along azimuth and polar angle. Default: as in the maps. Smaller images are
        averages over areas, in which pixels without a value count as 0 [assumption].

    Raises
    ------
    NotFoundError
        If the lake has no maps, or no maps of the bone.
    InputError
        If `size` is below 1 or above the size of the maps.
    """

    def __init__(self, lake: Snapshot, bone: str, size: int | None = None) -> None:
        if "sphere" not in lake.groups():
            raise NotFoundError(
                "no group 'sphere'",
                expected="spherical maps",
                where=lake.url,
                todo="Compute them: lake.run('sphere').",
            )
        group = lake.root["sphere"]
        # Maps of other series are arrays of their own: without step sphere, there is no `map`.
        bones, biomarkers = (
            [str(n) for n in group[name][:]] if name in group else []
            for name in ("bone", "biomarker")
        )
        if bone not in bones:
            raise NotFoundError(
                f"no bone {bone!r}",
                expected=f"one of {', '.join(bones)}",
                where=lake.url,
                todo=did_you_mean(str(bone), bones),
            )
        full = int(group["azimuth"].shape[-1])
        size = full if size is None else size
        if not 1 <= size <= full:
            raise InputError(f"{size} pixels", expected=f"1 to {full}", where="spherical images")
        self.url, self.snapshot = lake.location, lake.snapshot
        self.bone, self.size = bone, size
        self._bone_index, self._biomarkers, self._full = bones.index(bone), biomarkers, full
        self._root: Any = lake.root
        self._process: int | None = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_root": None, "_process": None}

    def _opened(self) -> Any:
        if self._process not in (None, os.getpid()):
            raise RunError(
                "the worker was forked",
                expected="start method forkserver or spawn",
                where=self.url,
                todo="Create the loader with make_loader: a fork would deadlock.",
            )
        if self._root is None:
            self._root = open_snapshot(self.url, self.snapshot).root
            self._process = os.getpid()
        return self._root

    def read(self, rows: NDArray[np.intp], biomarkers: Sequence[str]) -> NDArray[np.float32]:
        """Read maps, and scale their values to serve as image channels.

        Parameters
        ----------
        rows : (n,) int
            Positions on the lake's exam axis, in any order.
        biomarkers : sequence of str

        Returns
        -------
        (n, biomarker, azimuth, polar) float32
            Values divided by the scale of the biomarker, not clipped. 0 where there is no value.

        Raises
        ------
        InputError
            If a map of an exam has no values: its image would contain only zeros.
        """
        planes, empty = self._read(rows, biomarkers)
        if empty.any():
            for k, name in enumerate(biomarkers):
                self._refuse(rows[empty[:, k]], f"{find_biomarker(name).title} of the {self.bone}")
        return planes

    def _read(
        self, rows: NDArray[np.intp], biomarkers: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        maps = self._exams(rows, biomarkers)
        scales = [np.float32(find_biomarker(name).scale) for name in biomarkers]
        planes = np.empty((len(rows), len(biomarkers), self.size, self.size), np.float32)
        empty = np.empty((len(rows), len(biomarkers)), bool)
        scaled = np.empty((self._full, self._full), np.float32)
        for row, exam in enumerate(maps):  # one by one, so that the data stay in the CPU cache
            for k, (plane, scale) in enumerate(zip(exam, scales, strict=True)):
                absent = np.isnan(plane)
                empty[row, k] = absent.all()
                np.divide(plane, scale, out=scaled)
                np.copyto(scaled, 0.0, where=absent)
                planes[row, k] = area_average(scaled, self.size)
        return planes, empty

    def _exams(
        self, rows: NDArray[np.intp], biomarkers: Sequence[str]
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield the maps (azimuth, polar) of each exam, in the order of `biomarkers`."""
        arrays = dict.fromkeys(self._array_of(name) for name in biomarkers)
        read = {a: _read_chunks(self._opened()[a], rows, self._bone_index) for a in arrays}
        for row in range(len(rows)):
            yield [
                read["sphere/map"][row][self._biomarkers.index(name)]
                if name in self._biomarkers
                else read[f"sphere/{name}"][row]
                for name in biomarkers
            ]

    def _array_of(self, biomarker: str) -> str:
        """Return the array that has the map of a biomarker."""
        if biomarker in self._biomarkers:
            return "sphere/map"
        path = f"sphere/{biomarker}"
        if path not in self._opened():
            step = "sphere" if biomarker in BIOMARKER_TABLE else f"sphere_{biomarker}"
            raise NotFoundError(
                f"no spherical map of {biomarker}",
                expected=f"an array of maps in {path}",
                where=self.url,
                todo=f"Compute it: lake.run('{step}').",
            )
        return path

    def empty(self, rows: NDArray[np.intp], biomarkers: Sequence[str]) -> NDArray[np.bool_]:
        """Return which maps have no values; each map is read only once per process.

        Returns
        -------
        (n, biomarker) bool
        """
        columns = []
        for name in biomarkers:
            found = self._empty_of(rows, self._array_of(name))
            columns.append(
                found[:, self._biomarkers.index(name) if name in self._biomarkers else 0]
            )
        return np.stack(columns, axis=1)

    def _empty_of(self, rows: NDArray[np.intp], path: str) -> NDArray[np.bool_]:
        """Return which maps of an array have no values: (n, biomarker), or (n, 1) for one map."""
        # Cached, since the models of all strategies use the same exams.
        key = (self.snapshot, self.bone, rows.tobytes(), path)
        if key not in _EMPTY_MAPS:
            blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
            array = self._opened()[path]
            empty = [
                ~np.isfinite(exam).any(axis=(-2, -1))
                for block in blocks
                for exam in _read_chunks(array, block, self._bone_index)
            ]
            width = len(self._biomarkers) if path == "sphere/map" else 1
            _EMPTY_MAPS[key] = np.asarray(empty, bool).reshape(len(rows), width)
        return _EMPTY_MAPS[key]

    def check(self, rows: NDArray[np.intp], biomarkers: Sequence[str] | None = None) -> None:
        """Check that the maps of the bone were computed, according to `map_status`.

        It is the state of the maps of step ``sphere``. Nothing is checked if `biomarkers` has none
        of them; a map of another step without values is detected when it is read.

        Raises
        ------
        InputError
            If the maps of an exam were not computed; the message lists the keys of such exams.
        """
        if biomarkers is not None and not {*biomarkers} & BIOMARKER_TABLE.keys():
            for name in biomarkers:
                self._array_of(name)
            return
        status = self._opened()["sphere/map_status"]
        meanings = str(status.attrs["flag_meanings"]).split()
        computed = [
            v for v, m in zip(status.attrs["flag_values"], meanings, strict=True) if m != "absent"
        ]
        self._refuse(
            rows[~np.isin(status[:][rows, self._bone_index], computed)], f"map of the {self.bone}"
        )

    def _refuse(self, rows: NDArray[np.intp], what: str) -> None:
        if not len(rows):
            return
        names = [str(n) for n in self._opened()["exam"].oindex[np.sort(rows)[:_NAMED]]]
        more = f" and {len(rows) - len(names):,} more" if len(rows) > len(names) else ""
        raise InputError(
            f"no {what} in {counted(len(rows), 'exam')}: {', '.join(names)}{more}",
            expected="maps with values",
            where=self.url,
            todo="Exclude these exams: with_maps(cohort, strategy, bone).",
            reason=Reason.ABSENT_EXAM,
        )


def _read_chunks(
    array: zarr.Array[Any], rows: NDArray[np.intp], bone: int
) -> list[NDArray[np.float32]]:
    """Read one chunk for each row, concurrently.

    Indexing with all rows is also concurrent, but it copies element by element and takes 1.3 times
    as long.
    """

    async def read_all() -> list[NDArray[np.float32]]:
        chunks = (array.async_array.getitem((int(row), bone)) for row in rows)
        return [np.asarray(chunk) for chunk in await asyncio.gather(*chunks)]

    found: list[NDArray[np.float32]]
    found = asyncio.run_coroutine_threadsafe(read_all(), _event_loop(os.getpid())).result()
    return found


@functools.cache
def _event_loop(_process: int) -> asyncio.AbstractEventLoop:
    """Return an event loop in a thread, one per process.

    The main thread may already run an event loop, such as that of a notebook.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="map reader", daemon=True).start()
    return loop


def with_maps(cohort: Cohort, strategy: str, bone: str) -> Cohort:
    """Keep the exams that have values of all biomarkers of a strategy in the maps of a bone.

    All maps of the cohort are read.

    Parameters
    ----------
    cohort : Cohort
    strategy : str
        One of `qmri_lake.fusion.STRATEGIES`, or biomarkers joined by ``+``, as in
        `qmri_lake.fusion.channels_of`.
    bone : str

    Returns
    -------
    Cohort
        The remaining exams; the flow of the cohort gives the number of excluded exams.

    Raises
    ------
    NotFoundError
        If the lake has no maps, or the bone or strategy is unknown.
    """
    needed = biomarkers_of(strategy)
    reader = MapReader(cohort.lake, bone)
    rows = cohort.rows[~reader.empty(cohort.rows, needed).any(axis=1)]
    keys = cohort.lake.keys_at(rows)["exam"]
    return cohort.of_exams([str(key) for key in keys], f"{strategy} maps of the {bone} have values")


def with_all_maps(cohort: Cohort) -> Cohort:
    """Keep the exams that have values of all biomarkers in the maps of all bones.

    Every strategy and bone can then be trained and evaluated on the same exams. All maps of the
    cohort are read.

    Parameters
    ----------
    cohort : Cohort
        The paper uses right knees, the only ones with T2 [paper]: ``lake.cohort("knee ==
        'right'")``.

    Returns
    -------
    Cohort
        The remaining exams; the flow of the cohort gives the number of excluded exams by bone.

    Raises
    ------
    NotFoundError
        If the lake has no maps.
    """
    cohort = cohort.require("sphere/map")
    for bone in BONES:
        empty = MapReader(cohort.lake, bone).empty(cohort.rows, list(BIOMARKER_TABLE))
        # Each exam is counted once, under the first biomarker that it lacks.
        first = np.where(empty.any(axis=1), empty.argmax(axis=1), -1)
        reasons = {
            f"no {biomarker.title} of the {bone}": int((first == k).sum())
            for k, biomarker in enumerate(BIOMARKER_TABLE.values())
        }
        cohort = cohort.keep(first < 0, f"all maps of the {bone} have values", reasons)
    return cohort
