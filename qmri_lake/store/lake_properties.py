"""Properties of a lake, in an attribute of its root group: layout, profile, origin, removals."""

from __future__ import annotations

from qmri_lake.core.json_types import JsonObject
from qmri_lake.errors import NotALakeError, Reason
from qmri_lake.store.arrays import Node

__all__ = [
    "FORMAT",
    "PROPERTIES",
    "check_format",
    "has_properties",
    "read_properties",
    "removal_count",
    "update_properties",
]

PROPERTIES = "qmri_lake"
"""Name of the attribute."""

FORMAT = 1
"""Version of the layout in the store. It increases if an older package could not read the
layout."""


def has_properties(root: Node) -> bool:
    """Return whether a group is the root group of a lake."""
    return PROPERTIES in root.attrs


def read_properties(root: Node) -> JsonObject:
    """Return the properties of a lake: ``format``, ``version``, ``profile``, and others if set.

    A derived lake also has ``origin``. A lake from which patients were removed has ``removals``.
    """
    return dict(root.attrs[PROPERTIES])


def update_properties(root: Node, **changed: object) -> None:
    """Set some properties of a lake, and keep the others."""
    root.attrs[PROPERTIES] = {**read_properties(root), **changed}


def removal_count(root: Node) -> int:
    """Return how often a patient was removed from the lake. Each removal changes rows of exams."""
    return len(read_properties(root).get("removals", []))


def check_format(root: Node | None, url: str) -> Node:
    """Return the root group of a lake.

    Raises
    ------
    NotALakeError
        If the repository is not a lake, or has a newer format.
    """
    if root is None or not has_properties(root):
        raise NotALakeError(
            "an Icechunk repository that is not a lake",
            expected="a repository created by qmri_lake",
            where=url,
            todo="Check the path. If the creation of the lake was interrupted, choose a new path.",
            reason=Reason.NOT_A_LAKE,
        )
    about = read_properties(root)
    if about["format"] > FORMAT:
        raise NotALakeError(
            f"format {about['format']}, written by qmri_lake {about['version']}",
            expected=f"at most {FORMAT}",
            where=url,
            todo="Update qmri_lake.",
            reason=Reason.NOT_A_LAKE,
        )
    return root
