"""The registry of declared variables, by ``group/name``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from qmri_lake.errors import NotFoundError, VariableError
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.variable import Variable

__all__ = ["Registry"]


class Registry:
    """The variables declared in this process, by ``group/name``."""

    def __init__(self, variables: Iterable[Variable] = ()) -> None:
        self._known: dict[str, Variable] = {}
        for variable in variables:
            self.add(variable)

    def add(self, variable: Variable) -> Variable:
        """Declare a variable. Declaring an equal variable again has no effect.

        Raises
        ------
        VariableError
            If another variable with that path is declared.
        """
        known = self._known.setdefault(variable.path, variable)
        if replace(known, step="") != replace(variable, step="") and repr(known) != repr(variable):
            raise VariableError(
                f"a second declaration of {variable.path}",
                expected="the same as the first",
                todo="Choose another name, or use a variant.",
            )
        return known

    @contextmanager
    def temporary(self) -> Iterator[None]:
        """At the end of the ``with`` block, remove the variables declared inside it."""
        known = dict(self._known)
        try:
            yield
        finally:
            self._known.clear()
            self._known.update(known)

    def __getitem__(self, path: str) -> Variable:
        if path not in self._known:
            raise NotFoundError(
                f"no variable {path!r}", expected=f"one of {', '.join(sorted(self._known))}"
            )
        return self._known[path]

    def __contains__(self, path: object) -> bool:
        return path in self._known

    def __iter__(self) -> Iterator[Variable]:
        return iter(self._known.values())

    def privacy_of(self, variable: Variable) -> Privacy:
        """Return the privacy kind of a stored variable, as declared here or else as stored.

        Arrays of earlier versions store no kind.
        """
        return self._known.get(variable.path, variable).privacy_kind

    def group(self, name: str) -> tuple[Variable, ...]:
        """Return the variables of a group, in the order of declaration."""
        return tuple(v for v in self if v.group == name)

    def variables_of(self, step: str) -> tuple[Variable, ...]:
        """Return the variables that a step writes."""
        return tuple(v for v in self if v.step == step)
