"""Cache the maps of all exams on disk, in one memory-mapped array per bone and biomarker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.disk_full import check_room, disk_full_errors
from qmri_lake.diagnosis.data.map_reader import BLOCK, MapReader
from qmri_lake.errors import InputError, Reason
from qmri_lake.fusion import SCALES

__all__ = ["Packing", "pack"]

Packing = Literal["float16", "float32"]
_VERSION = 1
"""Version of the cached values. It must be increased when `MapReader` returns other values for the
same maps; older files are then ignored and written again."""
_ABANDONED_SECONDS = 24 * 3600
"""Age after which an incomplete file is deleted [s]."""


def pack(
    reader: MapReader,
    rows: NDArray[np.intp],
    exams: Sequence[str],
    biomarkers: Sequence[str],
    folder: str | os.PathLike[str],
    dtype: Packing = "float16",
) -> list[Path]:
    """Write the missing files of a cache, in one pass over the lake, and return all its files.

    Parameters
    ----------
    reader : MapReader
    rows, exams : (n,)
        Positions on the lake's exam axis, and exam keys.
    biomarkers : sequence of str
        One file is written for each biomarker, so that all strategies share three files per bone.
    folder : path
        Created if absent. Files are identified by the lake's snapshot, the exams and their order,
        the bone, biomarker, scale, size and type. Other files in the folder are never deleted.
    dtype : {"float16", "float32"}
        ``float16`` rounds values to 0.05 %, and thickness to 0.002 mm [assumption].

    Returns
    -------
    list of Path
        Paths of ``.npy`` files, each with an array (n, azimuth, polar) of the values that
        `MapReader.read` returns. Incomplete files are never returned.

    Raises
    ------
    InputError
        If the map of an exam has no values, or a value is out of range for `dtype`.
    DiskFullError
        If there is not enough space.
    """
    folder = Path(folder)
    paths = [folder / _name(reader, exams, biomarker, dtype) for biomarker in biomarkers]
    missing = {p: b for p, b in zip(paths, biomarkers, strict=True) if not p.is_file()}
    if missing:
        each = len(rows) * reader.size**2 * np.dtype(dtype).itemsize
        check_room(folder, each * len(missing), "packed maps")
        with disk_full_errors(folder, "packed maps"):
            _write(reader, rows, missing, dtype)
    return paths


def _name(reader: MapReader, exams: Sequence[str], biomarker: str, dtype: str) -> str:
    key = json.dumps(
        {
            "version": _VERSION,
            "snapshot": reader.snapshot,
            "exams": list(exams),
            "bone": reader.bone,
            "biomarker": biomarker,
            "scale": SCALES[biomarker],
            "size": reader.size,
            "dtype": dtype,
        }
    )
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    return f"{reader.bone}-{biomarker}-{reader.size}-{digest}.npy"


def _write(
    reader: MapReader, rows: NDArray[np.intp], missing: dict[Path, str], dtype: Packing
) -> None:
    """Write the missing files atomically."""
    folder = next(iter(missing)).parent
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    header = {
        "descr": np.dtype(dtype).str,
        "fortran_order": False,
        "shape": (len(rows), reader.size, reader.size),
    }
    with contextlib.ExitStack() as stack:
        streams = []
        for path in missing:
            # Several trainings may write the same file; each file is closed before its rename.
            unfinished = stack.enter_context(atomic_write(path, unique=True))
            streams.append(stack.enter_context(open(unfinished, "wb")))
        for stream in streams:
            np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(rows), BLOCK):
            planes = reader.read(rows[start : start + BLOCK], list(missing.values()))
            for k, stream in enumerate(streams):
                stream.write(_cast(planes[:, k], dtype, reader).data)


def _cast(planes: NDArray[np.float32], dtype: Packing, reader: MapReader) -> Values:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(planes, dtype)
    if not np.isfinite(cast).all():
        raise InputError(
            f"values up to {np.nanmax(np.abs(planes)):.3g} times their scale in {reader.bone} maps",
            expected=f"values within the range of {dtype}",
            where=reader.url,
            todo="Check these maps, or pack them as float32.",
            reason=Reason.UNREADABLE_VALUE,
        )
    return cast


def _clean(folder: Path) -> None:
    """Delete incomplete files of killed trainings, but not files that are being written."""
    for part in folder.glob("part.*.npy"):
        # Another training may delete or rename the file at the same time.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                part.unlink()
