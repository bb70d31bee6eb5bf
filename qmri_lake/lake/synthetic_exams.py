"""Exams that are synthetic: the column ``synthetic`` of a lake, and its description.

Headers of real exams do not state that they are real. Exams that are not marked are therefore
unknown, as are all exams that were ingested before this column existed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import icechunk
import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import Node, open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.transaction import Transaction, declare

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["SYNTHETIC", "describe_synthetic", "is_synthetic", "mark_exams", "mark_synthetic"]

SYNTHETIC = REGISTRY["clinical/synthetic"]
_YES = dict(SYNTHETIC.flags or {})["yes"]
_MADE_FROM = REGISTRY["clinical/made_from"]
_TRUTH = dict(_MADE_FROM.flags or {})["truth"]


def is_synthetic(lake: Snapshot) -> NDArray[np.bool_]:
    """Return which exams of a lake are marked as synthetic, (exam,)."""
    root = lake.root
    marked = np.zeros(len(lake), bool)
    if _is_ours(root):
        marked |= root[SYNTHETIC.path][:] == _YES
    if _MADE_FROM.path in root:  # lakes written before this column existed
        marked |= root[_MADE_FROM.path][:] == _TRUTH
    return marked


def describe_synthetic(lake: Snapshot, rows: NDArray[np.intp] | slice = slice(None)) -> str:
    """Return the number of synthetic exams as text, or "" if no exam is marked.

    The text is such as ``48 of 48 exams are synthetic``.
    """
    marked = is_synthetic(lake)[rows]
    count = int(marked.sum())
    if not count:
        return ""
    return f"{count:,} of {counted(marked.size, 'exam')} {'is' if count == 1 else 'are'} synthetic"


def mark_exams(session: icechunk.Session, exams: Iterable[str]) -> None:
    """Mark exams of a lake as synthetic, in a session that is committed by the caller.

    Raises
    ------
    InputError
        If the lake has a column ``synthetic`` with another meaning.
    """
    wanted = set(exams)
    if not wanted:
        return
    root = open_root(session.store, "r+")
    if SYNTHETIC.path in root and not _is_ours(root):
        raise InputError(
            f"a column {SYNTHETIC.name!r} with other values",
            expected="values yes and no",
            where=SYNTHETIC.path,
            todo="Ingest synthetic exams into another lake.",
            reason=Reason.UNREADABLE_VALUE,
        )
    declare(root, [SYNTHETIC])
    rows = [row for row, exam in enumerate(root["exam"][:].tolist()) if exam in wanted]
    change = Transaction()
    change.set_column(SYNTHETIC.path, rows, np.full(len(rows), _YES, np.uint8))
    change(session)


def mark_synthetic(lake: Snapshot, exams: Iterable[str]) -> None:
    """Mark the exams of a lake that are not marked yet, in one commit; none if all are marked."""
    marked = is_synthetic(lake)
    new = set(exams) & set(lake.exams["exam"].to_numpy()[~marked])
    if not new:
        return
    with translated_errors(lake.url):
        commit(
            lake.repo,
            lambda session: mark_exams(session, new),
            f"Mark {counted(len(new), 'exam')} as synthetic",
        )
    lake.refresh()


def _is_ours(root: Node) -> bool:
    """Return whether the lake has the column, rather than a column of that name from a table."""
    if SYNTHETIC.path not in root:
        return False
    stored = Variable.from_array(SYNTHETIC.group, SYNTHETIC.name, root[SYNTHETIC.path])
    return stored.flags is not None and dict(stored.flags) == dict(SYNTHETIC.flags or {})
