"""Check without Keras that a file of weights has the shapes of a V-Net."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from qmri_lake.errors import InputError, Reason
from qmri_lake.segmentation.models.vnet import Architecture

__all__ = ["check_shapes", "shapes"]

Shape = tuple[int, ...]


def shapes(architecture: Architecture) -> list[Shape]:
    """Return the shape of every array of weights of a model of `build_vnet`.

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
    """Check that a file contains the arrays of an architecture, without reading the arrays.

    The names of the layers are not compared, since they differ between versions of Keras.

    Raises
    ------
    InputError
        If the file cannot be read, or contains other arrays.
    """
    import h5py  # type: ignore[import-untyped]

    stored: Counter[Shape] = Counter()

    def count(name: str, item: object) -> None:
        # A trained model also stores the optimiser, whose arrays have the shapes of the weights.
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            stored[tuple(int(n) for n in item.shape)] += 1

    try:
        with h5py.File(path) as file:
            file.visititems(count)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"weights that can't be read ({' '.join(str(error).split())[:120]})",
            expected="weights written by qmri-lake train",
            where=where,
            todo="Copy the file again, or train the network again.",
            reason=Reason.UNREADABLE_FILE,
        ) from error
    expected = Counter(shapes(architecture))
    if stored != expected:
        other = next(iter([*(stored - expected), *(expected - stored)]))
        raise InputError(
            f"weights that don't fit ({stored[other]} arrays of shape {other}, "
            f"not {expected[other]})",
            expected=f"weights of {architecture}",
            where=where,
            todo="Put the weights beside the card of the same training.",
            reason=Reason.MODEL_MISMATCH,
        )
