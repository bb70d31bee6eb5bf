"""Arrays of an ``.npz`` file, which is a zip archive with a checksum of each array."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from io import BytesIO

import numpy as np

from qmri_lake.core.array_api import Values
from qmri_lake.core.text import one_line
from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.damage import (
    check_size,
    checksum_mismatch,
    trailing_bytes,
    truncated,
)

__all__ = ["read_arrays"]

_END = b"PK\5\6"
_END_LENGTH = 22
"""Bytes of the record at the end of a zip archive, without its comment."""


def read_arrays(path: str, wanted: Collection[str]) -> tuple[dict[str, Values], list[str]]:
    """Read the named arrays of a file, after the checksums of all of its arrays.

    Parameters
    ----------
    path : str
    wanted : collection of str
        Names of arrays. Other arrays are verified and not returned.

    Returns
    -------
    arrays : dict
        The wanted arrays that the file contains.
    names : list of str
        Names of all arrays of the file.

    Raises
    ------
    InputError
        If the file is damaged (``truncated_file``, ``trailing_bytes``, ``checksum_mismatch``,
        ``oversized_mask``) or is not an .npz file (``unreadable_file``).
    """
    arrays: dict[str, Values] = {}
    try:
        _check_end(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_size(sum(member.file_size for member in members), path)
            for member in members:
                content = archive.read(member)  # to the end, where its checksum is
                name = member.filename.removesuffix(".npy")
                if name in wanted:
                    stream = BytesIO(content)
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    except InputError:
        raise
    except zlib.error as error:
        raise checksum_mismatch("the compressed data is damaged", path) from error
    except EOFError as error:
        raise truncated("the compressed data ends too early", path) from error
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise checksum_mismatch("the content fails its checksum", path) from error
        raise _unreadable(one_line(error), path) from error
    except OSError as error:
        raise _unreadable(error.strerror or one_line(error), path) from error
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise _unreadable(one_line(error), path) from error
    return arrays, [member.filename.removesuffix(".npy") for member in members]


def _check_end(path: str) -> None:
    """Raise an error if a zip archive does not end with its record of the end."""
    with open(path, "rb") as stream:
        packed = stream.read(4) == b"PK\3\4"
        size = stream.seek(0, 2)
        stream.seek(max(size - _END_LENGTH - 2**16, 0))
        tail = stream.read()
    at = tail.rfind(_END)
    if not packed or (at < 0 and size < _END_LENGTH):
        raise _unreadable("not an .npz file" if size else "the file is empty", path)
    if at < 0 or at + _END_LENGTH > len(tail):
        raise truncated("the end of the archive is missing", path)
    comment = int.from_bytes(tail[at + 20 : at + 22], "little")
    if (end := at + _END_LENGTH + comment) != len(tail):
        error = trailing_bytes if end < len(tail) else truncated
        raise error("the archive does not end at the end of the file", path)


def _unreadable(found: str, path: str) -> InputError:
    return InputError(
        f"unreadable file: {found}",
        expected="an .npz file",
        where=path,
        todo="Write the file with np.savez_compressed(path, dess_bone=..., dess_affine=...).",
        reason=Reason.UNREADABLE_FILE,
    )
