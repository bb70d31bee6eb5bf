"""Records of runs: step, parameters, code, snapshot, counts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from qmri_lake.core.array_api import Values
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.version import __version__
from qmri_lake.errors import RunError
from qmri_lake.store.arrays import Node, compressors

__all__ = [
    "EDITED",
    "LEARNED_FROM",
    "keep_patients",
    "new_record",
    "new_run",
    "next_run",
    "read_run",
    "read_runs",
]

LEARNED_FROM = "learned_from"
"""Entry of the record of a segmentation: ``patients`` of the training and validation sets of its
networks, and the networks for which they are ``unknown``."""

EDITED = "edited"
"""Entry of the record of an import of edited masks: who edited them, ``by``, and the ``reason``.
It is free text, which neither a pseudonymised lake nor an export contains."""

RUN_CHUNK = 64
"""Number of run records in one chunk. A new record rewrites only its own chunk."""


def read_runs(root: Node) -> dict[int, JsonObject]:
    """Read the record of each run: step, parameters, code version, snapshot, counts."""
    if "status" not in root or "runs" not in root["status"]:
        return {}
    records = root["status/runs"][:].tolist()
    return {number: json.loads(text) for number, text in enumerate(records) if text}


def read_run(root: Node, number: int) -> JsonObject:
    """Read the record of one run; an empty record if there is none."""
    if "status" not in root or "runs" not in root["status"]:
        return {}
    runs = root["status/runs"]
    text = str(runs[number]) if 0 <= number < runs.shape[0] else ""
    record: JsonObject = json.loads(text) if text else {}
    return record


def keep_patients(record: JsonObject, patients: Collection[int]) -> JsonObject:
    """Return a record that names no patients other than the given ones."""
    if LEARNED_FROM not in record:
        return record
    learned = record[LEARNED_FROM]
    named = [patient for patient in learned["patients"] if patient in patients]
    return {**record, LEARNED_FROM: {**learned, "patients": named}}


def next_run(root: Node) -> int:
    """Return the number of the next run. The same commit must also store its record."""
    return max(read_runs(root), default=0) + 1


def new_run(root: Node, step: str, snapshot: str) -> tuple[int, JsonObject]:
    """Return the number and record of a new run by the package itself, without parameters."""
    return next_run(root), new_record(step, snapshot)


def new_record(step: str, snapshot: str) -> JsonObject:
    """Return the record of a run by the package itself, without parameters."""
    return {
        "step": step,
        "parameters": {},
        "code": f"qmri_lake {__version__}",
        "version": "1",
        "snapshot": snapshot,
    }


def write_run(root: Node, number: int, record: Mapping[str, object]) -> None:
    """Store or replace the record of one run, as JSON in one element of an array.

    If the records were stored in an attribute, each commit would rewrite all records.
    """
    group = root.require_group("status")
    if "runs" not in group:
        group.create_array(
            "runs",
            shape=(0,),
            dtype=np.dtypes.StringDType(),
            chunks=(RUN_CHUNK,),
            fill_value="",
            compressors=compressors(text=True),
            dimension_names=("run",),
            attributes={"long_name": "Record of each run, by its number, as JSON"},
        )
    runs = group["runs"]
    if number >= runs.shape[0]:
        runs.resize((number + 1,))
    runs[number] = json.dumps(_plain(record))


def canonical(parameters: Mapping[str, object], where: str = "parameters") -> str:
    """Return parameters as canonical JSON, so that the parameters of two runs can be compared.

    Tuples and lists count as equal: (0, 100) and [0, 100] give the same text.

    Raises
    ------
    RunError
        If a value cannot be represented. The message names the parameter.
    """
    plain = {}
    for name, value in parameters.items():
        try:
            plain[name] = _plain(value)
        except TypeError as error:
            raise RunError(
                f"{error} in parameter {name!r}",
                expected="numbers, text, None, lists, mappings with text keys, or NumPy arrays",
                where=where,
                todo="Pass plain values: a run compares them with the values of earlier runs.",
            ) from None
    return json.dumps(plain, sort_keys=True)


def _plain(value: object) -> object:
    """Convert a value for JSON, or raise TypeError. Distinct values stay distinct.

    JSON has no infinity and no NaN, so these become mappings. An array becomes its digest.
    """
    if isinstance(value, Mapping):
        if other := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {other[0]!r}")
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _digest(value)
    if isinstance(value, (np.bool_, np.integer, np.floating)) and not isinstance(
        value,
        np.longdouble,  # whose item() is a longdouble again
    ):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__}")


def _digest(values: Values) -> dict[str, object]:
    if values.dtype.hasobject or values.dtype.kind == "T":  # the bytes of such arrays are pointers
        raise TypeError(f"an array of {values.dtype}")
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return {"array": values.dtype.str, "shape": list(values.shape), "sha256": digest}
