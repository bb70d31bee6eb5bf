"""What has been done to which exam: one state, run number and message per step.

The status arrays are the truth about a product. The existence of a chunk is not: a result that is
all NaN writes none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from qmri_lake import __version__
from qmri_lake.errors import RunError
from qmri_lake.storage import Node
from qmri_lake.variables import EXAM_CHUNK, Variable

__all__ = [
    "STATE",
    "StepStatus",
    "declare_status",
    "new_run",
    "read_runs",
    "read_status",
    "status_steps",
]

STATE: Mapping[str, int] = MappingProxyType(
    {"pending": 0, "done": 1, "failed": 2, "skipped": 3, "flagged": 4}
)
"""States of an exam in a step. `flagged` is a result with a warning, usable as `done` is."""

RUN_CHUNK = 64
"""Records of runs in one chunk: a record is written into one chunk, whatever came before."""

USABLE = (STATE["done"], STATE["flagged"])

STATUS_VARIABLES = (
    Variable("status", "state", (), "uint8", "State of the exam in this step",
             fill=STATE["pending"], fill_meaning="pending", flags=STATE),
    Variable("status", "run", (), "int32", "Number of the run that set the state; see `runs`",
             fill_meaning="never run"),
    Variable("status", "message", (), "string", "Why it failed, was skipped or flagged",
             fill_meaning="nothing to say"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepStatus:
    """The status of one step for all exams: arrays of shape (exam,)."""

    state: np.ndarray[Any, np.dtype[np.uint8]]
    run: np.ndarray[Any, np.dtype[np.int32]]

    @property
    def usable(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Exams whose product may be read: done or flagged."""
        return np.isin(self.state, USABLE)


def declare_status(root: Node, step: str, length: int) -> Node:
    """Create the status arrays of a step, all pending, where they don't exist yet."""
    group = root.require_group("status").require_group(step)
    for variable in STATUS_VARIABLES:
        if variable.name not in group:
            text = variable.dtype == "string"
            group.create_array(
                variable.name,
                shape=(length,),
                dtype=np.dtypes.StringDType() if text else variable.dtype,
                chunks=(EXAM_CHUNK,),
                fill_value=variable.fill,
                dimension_names=("exam",),
                attributes=variable.attributes(),
            )
    return group


def status_steps(root: Node) -> list[str]:
    """Names of the steps that have a status, variants included."""
    return sorted(root["status"].group_keys()) if "status" in root else []


def read_status(root: Node, step: str, length: int) -> StepStatus:
    """Read a step's status; a step that never ran is pending everywhere."""
    if step not in status_steps(root):
        return StepStatus(np.zeros(length, np.uint8), np.full(length, -1, np.int32))
    group = root[f"status/{step}"]
    return StepStatus(group["state"][:], group["run"][:])


def read_messages(root: Node, step: str) -> np.ndarray[Any, Any]:
    """Read a step's messages, shape (exam,), as objects."""
    values: np.ndarray[Any, Any] = root[f"status/{step}/message"][:].astype(object)
    return values


def read_runs(root: Node) -> dict[int, dict[str, Any]]:
    """Read what is known about each run: step, parameters, code version, snapshot, counts."""
    if "status" not in root or "runs" not in root["status"]:
        return {}
    records = root["status/runs"][:].tolist()
    return {number: json.loads(text) for number, text in enumerate(records) if text}


def new_run(root: Node, step: str, snapshot: str) -> tuple[int, dict[str, Any]]:
    """Return the number and the record of a run of the package itself, without parameters."""
    record = {
        "step": step,
        "parameters": {},
        "code": f"qmri_lake {__version__}",
        "version": "1",
        "snapshot": snapshot,
    }
    return max(read_runs(root), default=0) + 1, record


def write_run(root: Node, number: int, record: Mapping[str, Any]) -> None:
    """Store or replace the record of one run: an element of an array, as JSON.

    In an attribute, every commit would carry the records of all runs.
    """
    group = root.require_group("status")
    if "runs" not in group:
        group.create_array(
            "runs",
            shape=(0,),
            dtype=np.dtypes.StringDType(),
            chunks=(RUN_CHUNK,),
            fill_value="",
            dimension_names=("run",),
            attributes={"long_name": "Record of each run, by its number, as JSON"},
        )
    runs = group["runs"]
    if number >= runs.shape[0]:
        runs.resize((number + 1,))
    runs[number] = json.dumps(_plain(record))


def canonical(parameters: Mapping[str, Any], where: str = "parameters") -> str:
    """Spell parameters in one way, so that those of two runs compare: (0, 100) is [0, 100].

    Raises
    ------
    RunError
        A value that can't be told from another one of its kind, with the parameter's name.
    """
    plain = {}
    for name, value in parameters.items():
        try:
            plain[name] = _plain(value)
        except TypeError as error:
            raise RunError(
                f"{error} in parameter {name!r}",
                expected="numbers, text, None, lists, mappings by text, or NumPy arrays of them",
                where=where,
                todo="A run compares parameters with those of earlier runs: pass the values.",
            ) from None
    return json.dumps(plain, sort_keys=True)


def _plain(value: Any) -> Any:
    """Return what JSON can hold, different for different values; TypeError when there is no way.

    JSON knows no infinity and no NaN; "inf" is a text. Arrays are known by their digest.
    """
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {strange[0]!r}")
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


def _digest(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    if values.dtype.hasobject or values.dtype.kind == "T":  # their bytes are addresses
        raise TypeError(f"an array of {values.dtype}")
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return {"array": values.dtype.str, "shape": list(values.shape), "sha256": digest}
