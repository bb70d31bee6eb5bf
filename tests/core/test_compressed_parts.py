"""Compressed parts of files are found without knowing the format of the file."""

from __future__ import annotations

import numpy as np
import pytest
from numcodecs import blosc, zstd

from qmri_lake.core.compressed_parts import expand

TEXT = b"9000001-000m-right " * 20
NUMBERS = np.arange(1000, dtype=np.int64)


def noise(size: int) -> bytes:
    return np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()


def packed(values: np.ndarray) -> bytes:
    return bytes(blosc.compress(values, b"zstd", 3, shuffle=blosc.BITSHUFFLE))


def test_expand__finds_frames_between_other_bytes() -> None:
    data = noise(999) + zstd.compress(TEXT) + noise(5) + packed(NUMBERS) + noise(99)
    parts = list(expand(data))
    assert (parts[0].data, parts[0].compressed) == (data, False)
    found = {(part.data, part.item_size) for part in parts[1:]}
    assert {(TEXT, 1), (NUMBERS.tobytes(), 8)} <= found


def test_expand__finds_compressed_values_in_compressed_metadata() -> None:
    inner = b"manifest" + packed(NUMBERS) + zstd.compress(TEXT)
    found = [part.data for part in expand(b"header" + zstd.compress(inner))]
    assert NUMBERS.tobytes() in found
    assert TEXT in found


def test_expand__reads_incompressible_arrays() -> None:
    values = np.frombuffer(noise(4096), np.int64)
    assert values.tobytes() in [part.data for part in expand(packed(values))]


@pytest.mark.parametrize("frame", [zstd.compress(TEXT), packed(NUMBERS)], ids=["zstd", "blosc"])
def test_expand__passes_over_damaged_and_truncated_frames(frame: bytes) -> None:
    for end in range(len(frame)):
        assert next(part.data for part in expand(frame[:end])) == frame[:end]
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(frame)
        damaged[rng.integers(len(frame))] ^= 1 << int(rng.integers(8))
        parts = list(expand(bytes(damaged) + zstd.compress(b"next" * 9)))
        assert parts[0].data.startswith(damaged)


def test_expand__reads_frames_of_every_kind_of_zstd() -> None:
    long = np.random.default_rng(2).integers(0, 3, 400_000, np.uint8).tobytes()
    for level in (-5, 1, 3, 19):
        for content in (b"x", bytes(300_000), noise(200_000), long):
            frame = bytes(zstd.compress(content, level))
            assert content in [part.data for part in expand(b"a" + frame + b"z")], level
    checked = bytes(zstd.compress(long, 3, True))
    assert [len(p.data) for p in expand(checked + b"tail")][1:] == [len(long)]
