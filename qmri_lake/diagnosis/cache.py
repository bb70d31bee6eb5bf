"""Maps packed for many epochs: one memory-mapped array a bone and biomarker, of all exams."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from qmri_lake.diagnosis.map_reader import BLOCK, MapReader
from qmri_lake.errors import InputError, Reason
from qmri_lake.fusion import SCALES
from qmri_lake.segmentation.room import check_room, told_when_full

__all__ = ["Packing", "pack"]

Packing = Literal["float16", "float32"]
_VERSION = 1
"""Raise it when the same maps give other images: when `MapReader` returns something else. Older
files are found no more then, and made anew."""
_ABANDONED = 24 * 3600
"""Seconds after which a half-written file is nobody's any more."""


def pack(
    reader: MapReader,
    rows: NDArray[np.intp],
    exams: Sequence[str],
    biomarkers: Sequence[str],
    folder: str | os.PathLike[str],
    dtype: Packing = "float16",
) -> list[Path]:
    """Write what is missing of a cache, in one pass over the lake, and return its files.

    Parameters
    ----------
    reader : MapReader
    rows, exams : (n,)
        Positions on the exam axis, and keys.
    biomarkers : sequence of str
        A file each, so that all strategies share three files a bone.
    folder : path
        Made if it is not there. Files are found again by the lake's snapshot, the exams in their
        order, bone, biomarker, scale, size and type; others stay until somebody removes them.
    dtype : {"float16", "float32"}
        ``float16`` rounds to 0.05 %: thickness to 0.002 mm [assumption].

    Returns
    -------
    list of Path
        ``.npy``, (n, azimuth, polar), as `MapReader.read` returns them. A file is whole or absent.

    Raises
    ------
    InputError
        Maps without any value, by exam; values that `dtype` can't hold.
    DiskFullError
        Less room than is needed.
    """
    folder = Path(folder)
    paths = [folder / _name(reader, exams, biomarker, dtype) for biomarker in biomarkers]
    missing = {p: b for p, b in zip(paths, biomarkers, strict=True) if not p.is_file()}
    if missing:
        each = len(rows) * reader.size**2 * np.dtype(dtype).itemsize
        check_room(folder, each * len(missing), "packed maps")
        with told_when_full(folder, "packed maps"):
            _write(reader, rows, missing, dtype)
    return paths


def _name(reader: MapReader, exams: Sequence[str], biomarker: str, dtype: str) -> str:
    key = json.dumps(
        {
            "version": _VERSION, "snapshot": reader.snapshot, "exams": list(exams),
            "bone": reader.bone, "biomarker": biomarker, "scale": SCALES[biomarker],
            "size": reader.size, "dtype": dtype,
        }
    )  # fmt: skip
    digest = hashlib.sha256(key.encode()).hexdigest()[:20]
    return f"{reader.bone}-{biomarker}-{reader.size}-{digest}.npy"


def _write(
    reader: MapReader, rows: NDArray[np.intp], missing: dict[Path, str], dtype: Packing
) -> None:
    """Write files: each whole, or not at all."""
    folder = next(iter(missing)).parent
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    parts = {path: path.with_name(f"{path.name}.{uuid4().hex[:12]}.part") for path in missing}
    header = {
        "descr": np.dtype(dtype).str, "fortran_order": False,
        "shape": (len(rows), reader.size, reader.size),
    }  # fmt: skip
    try:
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(open(part, "wb")) for part in parts.values()]
            for stream in streams:
                np.lib.format.write_array_header_1_0(stream, header)
            for at in range(0, len(rows), BLOCK):
                planes = reader.read(rows[at : at + BLOCK], list(missing.values()))
                for k, stream in enumerate(streams):
                    stream.write(_cast(planes[:, k], dtype, reader).data)
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _cast(planes: NDArray[np.float32], dtype: Packing, reader: MapReader) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(planes, dtype)
    if not np.isfinite(cast).all():
        raise InputError(
            f"values up to {np.nanmax(np.abs(planes)):.3g} times their scale in {reader.bone} maps",
            expected=f"what {dtype} can hold",
            where=reader.url,
            todo="Look at these maps, or pack them as float32.",
            reason=Reason.UNREADABLE_VALUE,
        )
    return cast


def _clean(folder: Path) -> None:
    """Remove what killed trainings left, and nothing that is being written."""
    for part in folder.glob("*.npy.*.part"):
        # Another training may clean too, or just have finished.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()
