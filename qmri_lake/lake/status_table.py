"""Tables of the status of exams: counts by step and state, and the exams that have no result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_lake.store.arrays import Node
from qmri_lake.store.runs import read_runs
from qmri_lake.store.status import STATE, read_messages, read_status, status_steps

__all__ = ["count_imported", "count_states", "list_failures"]


def count_states(root: Node, rows: NDArray[np.intp], length: int) -> pd.DataFrame:
    """Count the exams at `rows` by state, with a row for each step and a column for each state."""
    counts = {}
    for step in status_steps(root):
        state = read_status(root, step, length).state[rows]
        counts[step] = {name: int((state == value).sum()) for name, value in STATE.items()}
    return pd.DataFrame.from_dict(counts, orient="index", columns=list(STATE))


def count_imported(root: Node, step: str, rows: NDArray[np.intp], length: int) -> int:
    """Count the exams at `rows` whose product was imported. By default, runs do not replace it."""
    status = read_status(root, step, length)
    imports = [number for number, record in read_runs(root).items() if record["step"] == "import"]
    return int((status.usable & np.isin(status.run, imports))[rows].sum())


def list_failures(root: Node, exams: pd.Series, steps: Sequence[str]) -> pd.DataFrame:
    """List failed, skipped and flagged exams, with columns exam, step, state, run and message."""
    names = {value: name for name, value in STATE.items()}
    bad = [STATE["failed"], STATE["skipped"], STATE["flagged"]]
    found: list[tuple[object, ...]] = []
    for step in steps:
        status = read_status(root, step, len(exams))
        rows = np.flatnonzero(np.isin(status.state, bad))
        messages = read_messages(root, step)
        for row, message in zip(rows, messages[rows], strict=True):
            state = names[int(status.state[row])]
            found.append((exams.iloc[row], step, state, int(status.run[row]), message))
    return pd.DataFrame(found, columns=["exam", "step", "state", "run", "message"])
