"""The arrays and steps that belong to the products of a derived lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qmri_lake.core.text import did_you_mean
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable, with_variant
from qmri_lake.store.snapshot import Snapshot
from qmri_lake.store.status import status_steps
from qmri_lake.store.transaction import OWN_AXIS

__all__ = ["STEP", "check_products", "product_arrays", "product_steps", "status_of"]

STEP = "derive"
"""Name of the run that copies, and of its status."""


def geometry_arrays(group: str) -> tuple[str, ...]:
    """Return the names of small arrays that any other array of their group needs."""
    own: tuple[str, ...] = ()
    if group in GROUPS and GROUPS[group].has_several_images:
        own = (GROUPS[group].times, *GROUPS[group].parameters)
    return tuple(dict.fromkeys(("affine", "extent", "echo_time", *own)))


def check_products(lake: Snapshot, products: Sequence[str]) -> tuple[str, ...]:
    """Return the products without repetitions; raise an error for unknown ones."""
    if isinstance(products, str):
        products = (products,)
    known = [*lake.groups(), *sorted(lake.variables())]
    for name in products:
        if name not in known:
            raise NotFoundError(
                f"no product {name!r}",
                expected=f"a group, one of {', '.join(lake.groups())}, or a variable such as "
                "sphere/map",
                where=STEP,
                todo=did_you_mean(name, known),
            )
    if not products:
        raise InputError(
            "no product", expected="groups or variables, such as sphere/map", where=STEP
        )
    return tuple(dict.fromkeys(products))


def product_arrays(lake: Snapshot, names: Sequence[str]) -> dict[str, Variable]:
    """Return the arrays of the products, by path.

    If a step wrote a product, all arrays that it wrote in the same group are included, because the
    status of the step applies to all of them.
    """
    stored = lake.variables()
    # Outcomes, matched sets and the mark of synthetic exams are always copied.
    chosen = {p: v for p, v in stored.items() if v.step == STEP or p == "clinical/synthetic"}
    for name in names:
        if name in stored:
            step = status_of(name, stored[name])
            same = {
                p: v
                for p, v in stored.items()
                if v.group == stored[name].group and status_of(p, v) == step
            }
        else:
            same = {path: v for path, v in stored.items() if v.group == name}
        chosen |= same
        group = name.partition("/")[0]
        chosen |= {p: stored[p] for n in geometry_arrays(group) if (p := f"{group}/{n}") in stored}
    return chosen


def status_of(path: str, variable: Variable) -> str:
    """Return the name of the step whose status applies to an array."""
    return with_variant(variable.step, path.partition("__")[2])


def product_steps(lake: Snapshot, copied: Mapping[str, Variable]) -> list[str]:
    """Return the steps whose products are copied. Geometry arrays alone are not a product."""
    steps = {
        status_of(path, variable)
        for path, variable in copied.items()
        if variable.name not in geometry_arrays(variable.group) and variable.group not in OWN_AXIS
    }
    steps.discard(STEP)  # this is the status of the copy itself
    return sorted(steps & set(status_steps(lake.root)))
