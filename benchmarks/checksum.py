"""Measure what the checksums of chunks cost when images are read.

Usage: python -m benchmarks.checksum [FOLDER]

The DESS and multi-echo images of a synthetic knee (or of all series of FOLDER) are written twice to
a temporary folder, in the chunks and with the compression of a lake: with and without checksums.
Each image is read as a whole. Times are CPU seconds of this process, the best of 15 interleaved
repeats. Only their ratios are meaningful.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks.timing import best
from qmri_lake.oai.inventory import inventory, read_series
from qmri_lake.phantom import write_archive
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import compressors

REPEATS = 15


def images(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the group and the values of each series of a folder."""
    known = {"timepoint": 0, "knee": "right"} | (
        {"patient": 1} if folder.name == "knee_mese" else {}
    )
    for series in inventory(folder, **known).series:
        yield series.group, read_series(series).image


def write(folder: Path, group: str, image: NDArray[np.float32], *, checksums: bool) -> zarr.Array:
    """Write an image as a lake does, in one shard, as the only exam."""
    (variable,) = (v for v in REGISTRY.group(group) if v.name == "image")
    sizes = dict(zip(variable.dims, image.shape, strict=True))
    chunks, shards = variable.chunks(sizes)
    codecs = compressors(text=False)
    array = zarr.create_array(
        str(folder),
        shape=(1, *image.shape),
        dtype=variable.dtype,
        chunks=chunks,
        shards=shards,
        fill_value=variable.fill,
        compressors=codecs if checksums else codecs[:1],
    )
    array[0] = image
    return array


def report(folder: Path) -> None:
    for number, (group, image) in enumerate(images(folder)):
        with tempfile.TemporaryDirectory() as temporary:
            arrays = {
                found: write(Path(temporary) / found, group, image, checksums=found == "with")
                for found in ("without", "with")
            }
            assert all(np.array_equal(array[0], image) for array in arrays.values())
            seconds = best({k: lambda a=a: a[0] for k, a in arrays.items()}, REPEATS)
            size = {found: array.nbytes_stored() for found, array in arrays.items()}
        print(
            f"{number + 1} {group} {image.shape}: reading "
            f"{seconds['with'] / seconds['without'] - 1:+.1%} "
            f"({1e3 * seconds['without']:.0f} ms without), size "
            f"{size['with'] / size['without'] - 1:+.3%} ({size['without'] / 2**20:.0f} MiB without)"
        )


def main(folder: str | None = None) -> None:
    if folder is not None:
        report(Path(folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        report(write_archive(Path(temporary), exams=1, shape=(80, 256, 256)).path)


if __name__ == "__main__":
    main(*sys.argv[1:])
