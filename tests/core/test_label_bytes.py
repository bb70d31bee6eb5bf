"""Lookup of 8-bit labels, compared with NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.core.label_bytes import has_label, labels_besides, relabel

RNG = np.random.default_rng(0)
LABELS = RNG.choice(np.array([0, 1, 2, 7, 44, 255], np.uint8), (5, 6, 7))
LAYOUTS = {
    "rows first": LABELS,
    "columns first": np.asfortranarray(LABELS),
    "flipped": LABELS[::-1, :, ::-1],
    "every second": LABELS[:, ::2],
    "turned": LABELS.transpose(2, 0, 1),
    "read only": np.frombuffer(LABELS.tobytes(), np.uint8).reshape(LABELS.shape),
    "empty": LABELS[:0],
    "one number": LABELS[0, 0, 0, ...],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_relabel__is_a_lookup(layout: str) -> None:
    table = RNG.integers(0, 256, 256).astype(np.uint8)
    result = relabel(LAYOUTS[layout], table)
    np.testing.assert_array_equal(result, table[LAYOUTS[layout]])
    assert result.flags.writeable


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("known", [(), (0,), (0, 1, 2, 7, 44, 255), (-1, 300, 7)])
def test_labels_besides__is_a_difference_of_sets(layout: str, known: tuple[int, ...]) -> None:
    expected = np.setdiff1d(LAYOUTS[layout], known).tolist()
    assert labels_besides(LAYOUTS[layout], known) == expected


def test_has_label__any_of_several() -> None:
    assert has_label(LABELS, [3, 44])
    assert not has_label(LABELS, [3, 4, 254])
    assert not has_label(LABELS, [])
