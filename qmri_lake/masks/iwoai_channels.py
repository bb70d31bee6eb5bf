"""Reader of the masks of the IWOAI 2019 challenge: HDF5 files with a channel for each tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qmri_lake.core.array_api import Values
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.content import Content, shared_note
from qmri_lake.masks.damage import check_size, trailing_bytes, truncated
from qmri_lake.masks.label_values import as_numbers

__all__ = ["read_channels"]

_END_AT = {0: 40, 1: 44, 2: 28, 3: 28}
"""Byte of the superblock at which the end of the file is stored, by version."""


def read_channels(path: str) -> Content:
    """Read channels of 0 and 1 as one label map: the number of a label is its channel + 1.

    Raises
    ------
    InputError
        If the file is damaged, has no such channels, or one of them is the background.
    """
    channels = _channels(path)
    number = np.zeros(channels.shape[:3], np.uint8)
    count = np.zeros(channels.shape[:3], np.uint8)
    # If a voxel is in several channels, the first channel determines its label. [assumption]
    for channel in reversed(range(channels.shape[3])):
        values = as_numbers(channels[..., channel], path)
        inside = values == 1
        if other := np.setdiff1d(values, (0, 1)).tolist():
            raise InputError(
                f"value {other[0]} in a channel",
                expected="0 and 1",
                where=path,
                todo="Save each tissue as a channel of 0 and 1.",
                reason=Reason.UNREADABLE_VALUE,
            )
        number[inside] = channel + 1
        count += inside
    if count.all():
        raise InputError(
            "every voxel is in a channel, so one channel is the background",
            expected="channels of tissues only, of which the first is number 1",
            where=path,
            todo="Remove the channel of the background.",
            reason=Reason.UNREADABLE_VALUE,
        )
    return Content(number.transpose(2, 0, 1), None, notes=shared_note(int((count > 1).sum())))


def _channels(path: str) -> Values:
    """Return the dataset of a file, if all of it is stored in this file."""
    import h5py  # type: ignore[import-untyped]

    try:
        file = h5py.File(path)
    except OSError as error:
        if "truncated" in str(error):
            raise truncated("the file is shorter than its header declares", path) from error
        raise
    with file:
        _check_end(path)
        link = file.get("data", getlink=True)
        data = file.get("data") if isinstance(link, h5py.HardLink) else None
        if not isinstance(data, h5py.Dataset) or data.ndim != 4 or not 0 < data.shape[3] < 256:
            shape = getattr(data, "shape", None)
            raise InputError(
                "no dataset `data`" if shape is None else f"`data` of shape {shape}",
                expected="`data` (rows, columns, slices, channels) of 0 and 1",
                where=path,
                todo="Use the .seg files of the challenge, not the .im images.",
                reason=Reason.UNREADABLE_FILE,
            )
        check_size(data.size * data.dtype.itemsize, path)
        if not _is_complete(data):
            raise truncated("`data` has parts that were never written", path)
        return np.asarray(data[()])


def _is_complete(data: Any) -> bool:
    """Return whether all values of a dataset were written; the others would read as background."""
    if data.is_virtual or data.external:
        return False
    if data.chunks is None:
        return bool(data.id.get_storage_size() or not data.size)
    blocks = [-(-n // size) for n, size in zip(data.shape, data.chunks, strict=True)]
    return bool(data.id.get_num_chunks() == np.prod(blocks))


def _check_end(path: str) -> None:
    """Raise an error if a file is longer than its header declares, which the library ignores.

    Bytes that were inserted shift all values behind them.
    """
    with open(path, "rb") as stream:
        first = stream.read(64)
    at = _END_AT.get(first[8]) if first.startswith(b"\x89HDF") else None
    # Files that begin with a block of their user, or with short addresses, are not checked.
    lengths = first[13] if at in (40, 44) else first[9]
    if at is None or lengths != 8:
        return
    declared = int.from_bytes(first[at : at + 8], "little")
    if (size := Path(path).stat().st_size) > declared:
        raise trailing_bytes(f"{size:,} bytes, and the header declares {declared:,}", path)
