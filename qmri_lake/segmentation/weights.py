"""What a file of weights holds, told without Keras: whether it is of a V-Net's architecture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.vnet import Architecture

__all__ = ["check_shapes", "shapes"]

Shape = tuple[int, ...]


def shapes(architecture: Architecture) -> list[Shape]:
    """Return the shape of every array of weights that `build_vnet` makes.

    >>> shapes(Architecture(2, classes=4, channels=2, convolutions=(1,), bottom=1, kernel=3))[:2]
    [(3, 3, 1, 2), (2,)]
    """
    a = architecture
    found: list[Shape] = []

    def conv(into: int, out: int, size: int, transposed: bool = False) -> None:
        channels = (out, into) if transposed else (into, out)
        found.extend([(*(size,) * a.rank, *channels), (out,)])

    conv(1, a.channels, a.kernel)
    for level, count in enumerate(a.convolutions):
        here = a.channels * 2**level
        for _ in range(count):
            conv(here, here, a.kernel)
        conv(here, 2 * here, 2)
    lowest = a.channels * a.stride
    for _ in range(a.bottom):
        conv(lowest, lowest, a.kernel)
    for level, count in reversed(list(enumerate(a.convolutions))):
        here = a.channels * 2**level
        conv(2 * here, here, 2, transposed=True)
        for n in range(count):
            conv(here if n else 2 * here, here, a.kernel)
    conv(a.channels, a.classes, 1)
    return found


def check_shapes(path: Path, architecture: Architecture, where: str) -> None:
    """Refuse a file that does not hold the arrays of an architecture; no array is read.

    Which layer each belongs to is left to Keras, whose names differ between its versions.

    Raises
    ------
    InputError
        A file that can't be read, or other arrays.
    """
    import h5py  # type: ignore[import-untyped]

    stored: Counter[Shape] = Counter()

    def count(name: str, item: object) -> None:
        # What was trained has its optimiser's moments beside it, in the shapes of the weights.
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            stored[tuple(int(n) for n in item.shape)] += 1

    try:
        with h5py.File(path) as file:
            file.visititems(count)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"weights that can't be read ({' '.join(str(error).split())[:120]})",
            expected="those that qmri-lake train wrote",
            where=where,
            todo="Copy the file again, or train the network again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    expected = Counter(shapes(architecture))
    if stored != expected:
        other = next(iter([*(stored - expected), *(expected - stored)]))
        raise InputError(
            f"weights that don't fit ({stored[other]} arrays of {other}, not {expected[other]})",
            expected=f"those of {architecture}",
            where=where,
            todo="Put the weights beside the card that they were trained with.",
            reason=Reason.MODEL_MISMATCH,
        )
