"""The class `Step`: a function of one exam with declared variables to read and write."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from qmri_lake.errors import RunError
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.variable import Variable

__all__ = [
    "EXAMS_PER_BATCH",
    "Batch",
    "Parameters",
    "Product",
    "Reads",
    "Result",
    "Skip",
    "Step",
    "Validate",
]

_GRID = ("affine", "extent")
"""Variables that define the voxel grid of a group."""

EXAMS_PER_BATCH = 16
"""Maximum number of exams in one call of a batch function."""

_OPTIONS_OF_RUN = (
    "step",
    "cohort",
    "cluster",
    "variant",
    "retry_failed",
    "commit_every",
    "commit_seconds",
    "listeners",
)
"""Names of the arguments of `Lake.run`, which are not passed to a step."""

Reads = Mapping[str, Sequence[str]]
Parameters = Mapping[str, object]
"""Values of a step's parameters, by name."""
Product = Mapping[str, object]
"""Arrays or numbers that a step returns, by the name of the variable."""
Result = Product | xr.Dataset
Validate = Callable[..., Parameters | None]


class Skip(Exception):
    """Exception that a step raises if an exam has nothing to compute; its message is the reason."""


Batch = Callable[..., Sequence[Product | xr.Dataset | Skip]]


@dataclass(frozen=True)
class Step:
    """A function of one exam, with the variables that it reads and writes.

    To use a step without a lake, call it with in-memory Datasets of one exam, one per group.
    """

    name: str
    function: Callable[..., Result]
    reads: Reads | Callable[..., Reads]
    writes: tuple[Variable, ...]
    version: str
    memory_factor: float = 3.0
    """Projected peak memory, divided by the number of bytes read and written."""
    gpu: bool = False
    """Whether tasks request the worker resource ``GPU``."""
    validate: Validate | None = None
    """Function that is called with all parameters before anything runs. It raises an error if they
    are invalid. It may return values that replace parameters, for example a network instead of its
    folder."""
    recorded_parameters: Callable[..., Parameters] | None = None
    """Function that returns the parameters that a run records and compares. Default: all
    parameters, unchanged."""
    memory: Callable[..., int] | None = None
    """Function of sizes and parameters that returns the peak memory of a task in bytes. It replaces
    `memory_factor`."""
    batch_function: Batch | None = None
    """Function that computes up to `EXAMS_PER_BATCH` exams at once, in one task."""
    with_runs: bool = False
    """Whether each variable that is read has the attribute ``run``: the step and the parameters of
    the run that computed it, or nothing if this is not known."""
    notes: Callable[..., Parameters] | None = None
    """Function that returns entries for the record of a run, which are not compared."""

    def __post_init__(self) -> None:
        for name in self.defaults:
            if name in _OPTIONS_OF_RUN:
                raise RunError(
                    f"parameter {name!r}",
                    expected="a name that is not an option of lake.run",
                    where=f"step {self.name}",
                    todo=f"Choose a name other than {', '.join(_OPTIONS_OF_RUN)}.",
                )

    def __call__(self, *groups: xr.Dataset, **parameters: object) -> Result:
        """Call the function."""
        return self.function(*groups, **parameters)

    @property
    def group(self) -> str:
        """The one group that the step writes."""
        return self.writes[0].group

    @property
    def defaults(self) -> dict[str, object]:
        """Parameters with their defaults: the keyword-only arguments of the function."""
        return {
            name: p.default
            for name, p in inspect.signature(self.function).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def parameters(self, given: Parameters) -> dict[str, Any]:
        """Return all parameters: the given ones, and the defaults of the others.

        Raises
        ------
        RunError
            If a parameter is unknown, has no value, or is rejected by `validate`.
        """
        defaults = self.defaults
        for name in given:
            if name not in defaults:
                raise RunError(
                    f"parameter {name!r}",
                    expected=f"one of {', '.join(defaults)}" if defaults else "no parameter",
                    where=f"step {self.name}",
                )
        missing = [
            n for n, v in defaults.items() if v is inspect.Parameter.empty and n not in given
        ]
        if missing:
            raise RunError(
                f"no value for parameter {missing[0]!r}",
                expected="a value, because the parameter has no default",
                where=f"step {self.name}",
            )
        values = {**defaults, **given}
        if self.validate is not None:
            values |= self.validate(**values) or {}
        return values

    def record(self, parameters: Parameters) -> dict[str, object]:
        """Return the parameters that a run records. An exam with other parameters is stale."""
        if self.recorded_parameters is None:
            return dict(parameters)
        return dict(self.recorded_parameters(**parameters))

    def record_notes(self, parameters: Parameters) -> dict[str, object]:
        """Return the entries that a run adds to its record and does not compare."""
        return {} if self.notes is None else dict(self.notes(**parameters))

    def inputs(self, parameters: Parameters) -> dict[str, tuple[str, ...]]:
        """Return the names of the variables that the step reads with these parameters, by group."""
        reads = self.reads(**parameters) if callable(self.reads) else self.reads
        return {group: tuple(names) for group, names in reads.items()}

    def needed_steps(self, parameters: Parameters) -> tuple[str, ...]:
        """Return the steps that write the inputs of this step.

        The steps that write the affine and the extent are included only if this step reads no
        volume of the group. If a volume exists, its affine and extent exist too. An exam created
        from a mask has an affine and an extent, but no image.
        """
        needed: dict[str, None] = {}
        for group, names in self.inputs(parameters).items():
            read = [REGISTRY[f"{group}/{name}"] for name in names]
            volumes = any(variable.bulk for variable in read)
            needed |= dict.fromkeys(
                v.step for v in read if v.step and not (volumes and v.name in _GRID)
            )
        return tuple(needed)

    def projected_bytes(
        self, parameters: Parameters, sizes: Callable[[str], Mapping[str, int]]
    ) -> int:
        """Estimate the peak memory of a task from the sizes of the arrays read and written."""
        if self.memory is not None:
            return self.memory(sizes(self.group), **parameters)
        read = [REGISTRY[f"{g}/{n}"] for g, ns in self.inputs(parameters).items() for n in ns]
        total = sum(v.nbytes(sizes(v.group)) for v in (*read, *self.writes))
        return int(self.memory_factor * total * self.exams_a_task)

    @property
    def exams_a_task(self) -> int:
        """Maximum number of exams that one task computes."""
        return 1 if self.batch_function is None else EXAMS_PER_BATCH
