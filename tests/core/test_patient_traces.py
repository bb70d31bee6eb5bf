"""The search for a patient finds the number and exam keys, but no other numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numcodecs import blosc

from qmri_lake.core.compressed_parts import Part, expand
from qmri_lake.core.patient_traces import REMOVED, PatientTraces

TRACES = PatientTraces(9000001)


@pytest.mark.parametrize(
    "text",
    [
        "9000001",
        "9000001-024m-left",
        "/oai/0.C.2/9000001/20040101",
        "id=009000001,",
        "9000001.0",
        "scan.9000001.tar",
        "[9000001]",
    ],
)
def test_text_with_the_number__is_a_trace(text: str) -> None:
    assert TRACES.in_text(text)
    assert TRACES.in_part(Part(b"\x00\xff" + text.encode() + b"\x00", 1, compressed=False))
    assert "9000001" not in TRACES.without(text)


@pytest.mark.parametrize(
    "text",
    ["90000010", "19000001", "1.3.12.9000001.5", "0.9000001", "9000002", "109000001", "", "900000"],
)
def test_text_with_another_number__is_no_trace(text: str) -> None:
    assert not TRACES.in_text(text)
    assert not TRACES.in_part(Part(text.encode(), 1, compressed=False))
    assert TRACES.without(text) == text


def test_digits_of_a_digest__are_no_trace_and_are_kept() -> None:
    digest = "3f9000001bc4d2e8"
    assert not TRACES.in_text(digest)
    assert TRACES.without({"sha256": digest}) == {"sha256": digest}
    assert not TRACES.in_part(Part(digest.encode(), 1, compressed=False))
    assert TRACES.in_text(f"{digest} of 9000001")
    assert TRACES.without(f"{digest} of 9000001") == f"{digest} of {REMOVED}"
    assert TRACES.in_part(Part(f"{digest},9000001".encode(), 1, compressed=False))


def test_without__replaces_keys_and_numbers_at_any_depth() -> None:
    value = {"exams": ["9000001-000m-right", "9000002-000m-right"], "n": [9000001, 5, 9000001.0]}
    value["9000001"] = {"path": "a/9000001/b", "ok": True, "none": None}
    assert TRACES.without(value) == {
        "exams": [REMOVED, "9000002-000m-right"],
        "n": [REMOVED, 5, REMOVED],
        REMOVED: {"path": f"a/{REMOVED}/b", "ok": True, "none": None},
    }
    assert TRACES.in_value(value)
    assert not TRACES.in_value({"n": [9000002, float("nan")]})


def test_small_number__is_found_only_with_leading_zeros() -> None:
    traces = PatientTraces(12)
    assert traces.in_text("0000012-000m-left")
    assert not traces.in_text("12 exams of 2012")
    assert traces.without({"count": 12}) == {"count": 12}


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_integer__is_found_in_compressed_arrays(kind: type) -> None:
    values = np.arange(8999000, 9002000, dtype=kind)
    data = bytes(blosc.compress(values, b"zstd", 3, shuffle=blosc.BITSHUFFLE))
    assert any(TRACES.in_part(part) for part in expand(data))
    others = values[values != 9000001]
    data = bytes(blosc.compress(others, b"zstd", 3, shuffle=blosc.BITSHUFFLE))
    assert not any(TRACES.in_part(part) for part in expand(data))
    # Between two elements, and in an array of another type, the same bytes mean something else.
    shifted = b"\x00" + np.array([9000001, 0], kind).tobytes()
    assert not TRACES.in_part(Part(shifted, values.itemsize, compressed=True))
    assert not TRACES.in_part(Part(values.tobytes(), 2, compressed=True))
