"""Pixels of one image, decoded from the content of its file."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.filereader import dcmread
from pydicom.pixels.utils import pixel_array

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.encoding import DEFLATED
from qmri_lake.oai.header import Header

__all__ = ["FileContent"]

_DELIMITER = (b"\xfe\xff\xdd\xe0", b"\xff\xfe\xe0\xdd")
"""Marks at the end of compressed pixel data."""


class FileContent:
    """Content of one file, from which images are decoded one at a time.

    Parameters
    ----------
    content : bytes
        The whole file.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._dataset: FileDataset | None = None

    def decode(self, header: Header) -> NDArray[np.integer]:
        """Return the stored pixels (row, column) of one image, in the native byte order.

        Raises
        ------
        InputError
            If the pixels cannot be decoded, or if some are padding that is not 0.
        """
        pixels = header.pixels
        if not pixels.dtype:
            stored = self._decompress(header)
            _check_padding(header, stored)
            return stored
        stored = np.frombuffer(self._content, pixels.dtype, pixels.count, pixels.offset)
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        stored = stored.reshape(header.rows, header.columns)
        _check_padding(header, stored)
        return _keep_stored_bits(stored, pixels.bits_stored)

    def _decompress(self, header: Header) -> NDArray[np.integer]:
        try:
            with warnings.catch_warnings():
                # Damaged streams raise an error; pydicom also warns of streams that are unusual.
                warnings.simplefilter("ignore")
                if self._dataset is None:
                    self._dataset = dcmread(io.BytesIO(self._content), force=True)
                frame = header.pixels.frame if header.pixels.frames > 1 else None
                stored: NDArray[np.integer] = pixel_array(self._dataset, index=frame)
        except Exception as error:  # each decoder has its own error classes
            raise _undecodable(header, self._content, error) from None
        if stored.shape != (header.rows, header.columns):
            raise InputError(
                f"pixels have shape {stored.shape}",
                expected=f"{(header.rows, header.columns)}",
                where=header.name,
                todo="Use greyscale images of the size that the header declares.",
                reason=Reason.UNDECODABLE_PIXELS,
            )
        excess = _excess_bytes(self._dataset, header)
        if excess:
            raise InputError(
                f"PixelData has {counted(excess, 'byte')} too many",
                expected=f"pixels of shape {stored.shape}",
                where=header.name,
                todo="Copy or export the file again.",
                reason=Reason.TRAILING_BYTES,
            )
        return stored


def _excess_bytes(dataset: FileDataset, header: Header) -> int:
    """Return the number of bytes beyond the pixels of a deflated file."""
    if dataset.file_meta.get("TransferSyntaxUID") != DEFLATED:
        return 0
    pixels = header.pixels
    needed = pixels.count * pixels.frames * pixels.bits // 8
    return max(len(dataset.PixelData) - needed - needed % 2, 0)


def _undecodable(header: Header, content: bytes, error: Exception) -> InputError:
    if not any(mark in content[-1024:] for mark in _DELIMITER):
        return InputError(
            "truncated compressed pixels",
            expected="a complete DICOM image",
            where=header.name,
            todo="Copy or download the file again.",
            reason=Reason.TRUNCATED_FILE,
        )
    return InputError(
        f"pixels cannot be decoded: {type(error).__name__}",
        expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000 pixels",
        where=header.name,
        todo="Copy or download the file again, or decompress it with another tool.",
        reason=Reason.UNDECODABLE_PIXELS,
    )


def _check_padding(header: Header, stored: NDArray[np.integer]) -> None:
    """Raise an error if pixels have no value. Padding of signal 0 is background, and is kept."""
    if header.pixels.padding is None:
        return
    low, high = header.pixels.padding
    padded = (stored >= low) & (stored <= high)
    padded &= stored * np.float64(header.slope) + header.intercept != 0
    if padded.any():
        raise InputError(
            f"{counted(int(padded.sum()), 'pixel')} with the PixelPaddingValue "
            + (f"{low}" if low == high else f"{low} to {high}"),
            expected="a signal in every pixel",
            where=header.name,
            todo="Export the series without padding, or with 0 outside the image.",
            reason=Reason.PADDED_PIXELS,
        )


def _keep_stored_bits(pixels: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    """Clear the bits above the stored bits, which old scanners use for overlays or saturation."""
    unused = pixels.dtype.itemsize * 8 - bits
    if unused == 0:
        return pixels
    if pixels.dtype.kind == "u":
        return pixels & pixels.dtype.type((1 << bits) - 1)
    return (pixels << unused) >> unused  # this extends the sign, which is the highest stored bit
