"""Status of exams: a state, a run number and a message per exam and step.

Only the status arrays show whether an exam has a result. The presence of a chunk does not: a result
that is all NaN has no chunk.

The numbers of runs order commits only if there is one writer. With several writers, a run with a
smaller number may commit later. Therefore the status also contains, for each exam, the runs whose
results were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import EXAM_CHUNK, Variable
from qmri_lake.store.arrays import Node, compressors

__all__ = [
    "INPUT_RUNS",
    "STATE",
    "State",
    "StepStatus",
    "declare_input_runs",
    "declare_status",
    "read_input_runs",
    "read_status",
    "read_status_rows",
    "status_steps",
]


class State(IntEnum):
    """State of an exam in a step, as stored."""

    PENDING = 0
    """The exam has not been computed yet."""
    DONE = 1
    """The exam has a result."""
    FAILED = 2
    """The step raised an error."""
    SKIPPED = 3
    """The step had nothing to compute."""
    FLAGGED = 4
    """The exam has a result with a warning. The result is usable as in `DONE`."""

    @property
    def label(self) -> str:
        """Name in messages, tables and the store."""
        return self.name.lower()


STATE: Mapping[str, int] = MappingProxyType({state.label: int(state) for state in State})
"""Stored numbers of the states, by label."""

USABLE = (State.DONE, State.FLAGGED)

STATUS_VARIABLES = (
    Variable(
        "status",
        "state",
        (),
        "uint8",
        "State of the exam in this step",
        fill=int(State.PENDING),
        fill_meaning="pending",
        flags=STATE,
    ),
    Variable(
        "status",
        "run",
        (),
        "int32",
        "Number of the run that set the state; see `runs`",
        fill_meaning="never run",
    ),
    Variable(
        "status",
        "message",
        (),
        "string",
        "Reason why it failed, was skipped or flagged",
        fill_meaning="no message",
        privacy=Privacy.TEXT,
    ),
)

INPUT_RUNS = "inputs"
"""Subgroup of a step's status, with an array for each step whose results the step reads."""

UNKNOWN_RUN = -1
"""Fill value of the numbers of runs."""


@dataclass(frozen=True, slots=True)
class StepStatus:
    """The status of one step for all exams: arrays of shape (exam,)."""

    state: NDArray[np.uint8]
    run: NDArray[np.int32]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether the result of each exam may be read: its state is done or flagged."""
        return np.isin(self.state, USABLE)


def declare_status(root: Node, step: str, length: int) -> Node:
    """Return the status group of a step. Missing arrays are created with all exams pending."""
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
                compressors=compressors(text=text),
                dimension_names=("exam",),
                attributes=variable.attributes(),
            )
    return group


def declare_input_runs(group: Node, needed: str, length: int) -> Node:
    """Return the array of the runs of step `needed` whose results were read; create it if missing.

    Parameters
    ----------
    group : Node
        Status group of the step that reads the results.
    needed : str
        Step that writes an input.
    length : int
        Number of exams.
    """
    inputs = group.require_group(INPUT_RUNS)
    if needed not in inputs:
        variable = Variable(
            "status",
            needed,
            (),
            "int32",
            f"Number of the run of {needed} whose result was read",
            fill_meaning="unknown: written without this number",
        )
        inputs.create_array(
            needed,
            shape=(length,),
            dtype=variable.dtype,
            chunks=(EXAM_CHUNK,),
            fill_value=variable.fill,
            compressors=compressors(text=False),
            dimension_names=("exam",),
            attributes=variable.attributes(),
        )
    return inputs[needed]


def read_input_runs(root: Node, step: str, needed: str, length: int) -> NDArray[np.int32]:
    """Read the runs of step `needed` whose results `step` read, shape (exam,); -1 if unknown."""
    path = f"status/{step}/{INPUT_RUNS}/{needed}"
    if path not in root:
        return np.full(length, UNKNOWN_RUN, np.int32)
    runs: NDArray[np.int32] = root[path][:]
    return runs


def status_steps(root: Node) -> list[str]:
    """Return the names of the steps with a status, variants included."""
    return sorted(root["status"].group_keys()) if "status" in root else []


def read_status(root: Node, step: str, length: int) -> StepStatus:
    """Read the status of a step. A step that never ran is pending for all exams."""
    if step not in status_steps(root):
        return StepStatus(np.zeros(length, np.uint8), np.full(length, UNKNOWN_RUN, np.int32))
    group = root[f"status/{step}"]
    return StepStatus(group["state"][:], group["run"][:])


def read_status_rows(root: Node, step: str, rows: NDArray[np.intp]) -> StepStatus:
    """Read the status of a step for the exams at `rows`; only their chunks are read."""
    if step not in status_steps(root):
        return StepStatus(np.zeros(len(rows), np.uint8), np.full(len(rows), UNKNOWN_RUN, np.int32))
    group = root[f"status/{step}"]
    return StepStatus(group["state"].oindex[rows], group["run"].oindex[rows])


def read_messages(root: Node, step: str) -> Values:
    """Read the messages of a step as an object array of shape (exam,)."""
    return root[f"status/{step}/message"][:].astype(object)
