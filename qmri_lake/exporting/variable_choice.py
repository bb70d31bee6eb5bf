"""The variables of an export: those that the user names, or all that the format can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.exporting.format_declaration import NAMED_ONLY, Format
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.snapshot import Snapshot

__all__ = ["choose_variables"]


def choose_variables(
    lake: Snapshot, form: Format, names: Sequence[str] | None
) -> dict[str, Variable]:
    """Return the variables to export by path, in the order of the groups.

    Parameters
    ----------
    lake : Snapshot
    form : Format
    names : sequence of str or None
        Groups and variables. A group stands for its variables that the format can hold, without
        UIDs, texts and dates. None: `Format.by_default`.

    Raises
    ------
    NotFoundError
        If the lake has no group or variable of that name.
    InputError
        If the format cannot hold a variable that was named, or nothing remains.
    """
    stored = lake.variables()
    if names is None:
        chosen = {p: v for p, v in stored.items() if form.by_default(v)}
    else:
        chosen = {}
        for name in names:
            chosen |= _named(lake, stored, form, name)
    if not chosen:
        raise InputError(
            "no variable to export",
            expected=f"variables that {form.name} can hold: {form.content}",
            where=lake.url,
            todo="Name them with variables=..., or choose another format.",
            reason=Reason.UNREADABLE_VALUE,
        )
    # The store lists arrays in arbitrary order.
    declared = {variable.path: n for n, variable in enumerate(REGISTRY)}

    def position(item: tuple[str, Variable]) -> tuple[Any, ...]:
        path, variable = item
        order = declared.get(variable.path, len(declared))
        return GROUPS.position(variable.group), "__" in path, order, path

    return dict(sorted(chosen.items(), key=position))


def _named(
    lake: Snapshot, stored: Mapping[str, Variable], form: Format, name: str
) -> dict[str, Variable]:
    if name in stored:
        if reason := form.refuse(stored[name]):
            raise InputError(
                f"{name} {reason}",
                expected=f"what {form.name} can hold: {form.content}",
                where="variables",
                todo="Export it in another format, such as netcdf.",
                reason=Reason.UNREADABLE_VALUE,
            )
        return {name: stored[name]}
    if name in lake.groups():
        found = {
            path: variable
            for path, variable in stored.items()
            if variable.group == name
            and not form.refuse(variable)
            and variable.privacy_kind not in NAMED_ONLY
        }
        if found:
            return found
        raise InputError(
            f"group {name} has no variable for {form.name}",
            expected=f"what {form.name} can hold: {form.content}",
            where="variables",
            todo="Export it in another format, such as netcdf or parquet.",
            reason=Reason.UNREADABLE_VALUE,
        )
    known = [*lake.groups(), *sorted(stored)]
    raise NotFoundError(
        f"no variable {name!r}",
        expected=f"a group, one of {', '.join(lake.groups())}, or a variable such as msme/t2",
        where=lake.url,
        todo=did_you_mean(name, known),
    )
