"""Steps: functions of one exam that declare what they read and what they write.

Ours and a user's own go through the same door::

    @ql.step(
        reads={"msme": ["image"]},
        writes=[ql.Variable("msme", "first_echo", ("slice", "row", "column"), "float32",
                            "Signal of the first echo")],
    )
    def first_echo(msme, *, gain=1.0):
        return {"first_echo": msme["image"].isel(echo=0) * gain}

    lake.run(first_echo, cohort, gain=2.0)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from qmri_lake import __version__
from qmri_lake.errors import NotFoundError, RunError, VariableError
from qmri_lake.index import KEYS
from qmri_lake.storage import Node
from qmri_lake.variables import REGISTRY, Variable, with_variant
from qmri_lake.writing import fill_shape

__all__ = ["Skip", "Step", "find_step", "load_own_steps", "read_exam", "step", "write_exam"]

_OF_THE_EXAM = ("slice", "row", "column", "echo")
"""Dims whose size differs from exam to exam."""

_GRID = ("affine", "extent")
"""Variables that say where the voxels of a group lie."""

BLOCK = 16
"""Exams of a task where a step computes exams together: a batch that a network is quick with."""

RESERVED = ("derive", "import", "ingest")
"""Names of runs that no step makes."""

_OPTIONS_OF_RUN = ("step", "cohort", "cluster", "variant", "retry_failed", "commit_every",
                   "commit_seconds", "listeners")  # fmt: skip
"""Arguments of `Lake.run`, which never reach a step."""

Reads = Mapping[str, Sequence[str]]
Product = Mapping[str, Any]


class Skip(Exception):
    """Raised by a step for an exam that has nothing to compute; the message says why."""


@dataclass(frozen=True)
class Step:
    """A function of one exam, with what it reads and writes.

    Call it with in-memory Datasets of one exam, one a group, to try it without a lake.
    """

    name: str
    function: Callable[..., Product | xr.Dataset]
    reads: Reads | Callable[..., Reads]
    writes: tuple[Variable, ...]
    version: str
    copies: float = 3.0
    """Peak memory in units of what is read plus what is written."""
    gpu: bool = False
    """Whether tasks ask the workers for the resource ``GPU``."""
    check: Callable[..., Mapping[str, Any] | None] | None = None
    """Called with all parameters before anything runs; it raises what is wrong with them, and may
    return values to use instead, such as a network for the folder that it lies in."""
    recorded: Callable[..., Mapping[str, Any]] | None = None
    """What a run records of the parameters, and compares; default: all of them, as they are."""
    memory: Callable[..., int] | None = None
    """Peak bytes of a task by the sizes and the parameters, where `copies` says too little."""
    together: Callable[..., Sequence[Product | xr.Dataset | Skip]] | None = None
    """The function of up to `BLOCK` exams, which a task then computes together."""

    def __post_init__(self) -> None:
        for name in self.defaults:
            if name in _OPTIONS_OF_RUN:
                raise RunError(
                    f"parameter {name!r}",
                    expected="a name that lake.run has no option of",
                    where=f"step {self.name}",
                    todo=f"Choose another name than {', '.join(_OPTIONS_OF_RUN)}.",
                )

    def __call__(self, *groups: Any, **parameters: Any) -> Product | xr.Dataset:
        """Run the function itself."""
        return self.function(*groups, **parameters)

    @property
    def group(self) -> str:
        """The one group that the step writes."""
        return self.writes[0].group

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameters, which are the function's keyword-only arguments, with their defaults."""
        return {
            name: p.default
            for name, p in inspect.signature(self.function).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all parameters, the given ones over the defaults, or say what is wrong."""
        defaults = self.defaults
        for name in given:
            if name not in defaults:
                raise RunError(
                    f"parameter {name!r}",
                    expected=f"one of {', '.join(defaults) or 'none at all'}",
                    where=f"step {self.name}",
                )
        missing = [
            n for n, v in defaults.items() if v is inspect.Parameter.empty and n not in given
        ]
        if missing:
            raise RunError(
                f"no value for parameter {missing[0]!r}",
                expected="a value: it has no default",
                where=f"step {self.name}",
            )
        values = {**defaults, **given}
        if self.check is not None:
            values |= self.check(**values) or {}
        return values

    def record(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run records of its parameters: with others, an exam is stale."""
        return dict(self.recorded(**parameters) if self.recorded is not None else parameters)

    def inputs(self, parameters: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Return what is read with these parameters: names of variables by group."""
        reads = self.reads(**parameters) if callable(self.reads) else self.reads
        return {group: tuple(names) for group, names in reads.items()}

    def needed_steps(self, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the steps that make what is read.

        Whatever made a volume made sure of its grid: an exam that was made from a mask has affine
        and extent, and no image.
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
        self, parameters: Mapping[str, Any], sizes: Callable[[str], Mapping[str, int]]
    ) -> int:
        """Estimate a task's peak memory from the sizes of the arrays that it reads and writes."""
        if self.memory is not None:
            return self.memory(sizes(self.group), **parameters)
        read = [REGISTRY[f"{g}/{n}"] for g, ns in self.inputs(parameters).items() for n in ns]
        total = sum(v.nbytes(sizes(v.group)) for v in (*read, *self.writes))
        return int(self.copies * total * self.exams_a_task)

    @property
    def exams_a_task(self) -> int:
        """How many exams a task computes at most."""
        return 1 if self.together is None else BLOCK


_KNOWN: dict[str, Step] = {}


def step(
    *,
    reads: Reads | Callable[..., Reads],
    writes: Sequence[Variable],
    name: str | None = None,
    version: str = "1",
    copies: float = 3.0,
    gpu: bool = False,
    check: Callable[..., Mapping[str, Any] | None] | None = None,
    recorded: Callable[..., Mapping[str, Any]] | None = None,
    memory: Callable[..., int] | None = None,
    together: Callable[..., Sequence[Product | xr.Dataset | Skip]] | None = None,
) -> Callable[[Callable[..., Product | xr.Dataset]], Step]:
    """Make a step of a function of one exam.

    Parameters
    ----------
    reads : mapping of group to names, or a function of the parameters that returns one
        What the function gets: a Dataset for each group, as positional arguments in this order,
        of one exam, in memory, cropped to the exam's true extent, with the exam's key as
        coordinates: ``ds.knee.item()``.
    writes : sequence of Variable
        What it returns, all in one group: a Dataset, or a mapping from name to array, with the
        declared dims. Leave a name out, and the exam has no value there. No other step may make
        the same variable.
    name : str, optional
        Default: the function's name.
    version : str
        Raise it when the results change; exams of an older version then count as stale.
    copies : float
        Projected peak memory in units of the bytes read plus written.
    gpu : bool
        Ask the workers for the resource ``GPU``.
    check : function of the parameters, optional
        Raises what is wrong with them, when a run is planned: a wrong value that only fails in the
        function marks every exam as failed. It may return values to use instead.
    recorded : function of the parameters, optional
        Returns what a run records of them and what makes an exam stale: a digest of a file rather
        than the place where it lies.
    memory : function of (sizes, parameters), optional
        Returns a task's peak bytes, from the sizes of the group's dimensions; instead of `copies`.
    together : function, optional
        The same of up to `BLOCK` exams, where they are cheaper so, as a network's are: it gets a
        list of Datasets for each group, and returns a result an exam, in their order; for one that
        has nothing to compute, a `Skip`. What it writes has no dims of a volume. Where it raises,
        the function is called for each exam.

    Returns
    -------
    Step
        For ``lake.run(step, cohort, **parameters)``. Raising `Skip` in the function marks
        the exam as skipped, `RunError` ends the run, any other exception marks it as failed. The
        attribute ``flag`` of a returned Dataset marks it as flagged, with that text as the reason.
    """
    if together is not None and (bulk := [v for v in writes if v.bulk]):
        raise VariableError(
            f"{bulk[0].path}, an array of voxels, among the writes",
            expected="values without voxels, where a task computes exams together",
            where="step",
        )
    if not writes or len({variable.group for variable in writes}) != 1:
        raise VariableError(
            f"{len({v.group for v in writes})} groups in writes", expected="exactly one group"
        )

    def decorate(function: Callable[..., Product | xr.Dataset]) -> Step:
        title = str(name or getattr(function, "__name__", "step"))
        if title in RESERVED:
            raise VariableError(
                f"a step called {title!r}", expected=f"another name than {', '.join(RESERVED)}",
                where="step", todo="Runs of the package itself are called so: give a name=.",
            )  # fmt: skip
        load_own_steps()
        for variable in writes:
            _refuse_second_maker(variable, title)
        made = tuple(REGISTRY.add(replace(variable, step=title)) for variable in writes)
        result = Step(title, function, reads, made, version, copies, gpu, check, recorded, memory,
                      together)  # fmt: skip
        _KNOWN[title] = result
        return result

    return decorate


def _refuse_second_maker(variable: Variable, step: str) -> None:
    """Refuse a step that writes what another one makes: raw images, imported masks, its maps.

    Neither status would tell whose values are there. The same step may be declared again.
    """
    maker = REGISTRY[variable.path].step if variable.path in REGISTRY else ""
    if maker and maker != step:
        raise VariableError(
            f"{variable.path}, which step {maker} makes, among the writes",
            expected="variables that no other step makes",
            where=f"step {step}",
            todo=f"Give the variable another name. A second version of what {maker} makes is a "
            f"variant of it: lake.run({maker!r}, variant=...).",
        )


def load_own_steps() -> None:
    """Import our own steps: they register, and declare their variables, when they are imported."""
    import qmri_lake.diagnosis.step
    import qmri_lake.registration
    import qmri_lake.relaxometry.step
    import qmri_lake.segmentation.step
    import qmri_lake.surface.region_step
    import qmri_lake.surface.step  # noqa: F401


def find_step(which: str | Step) -> Step:
    """Return a step by its name."""
    load_own_steps()  # for a step of the user's too: it may read what ours declare
    if isinstance(which, Step):
        return which
    if which not in _KNOWN:
        raise NotFoundError(
            f"no step {which!r}",
            expected=f"one of {', '.join(sorted(_KNOWN))}",
            todo="A step of your own must be imported first.",
        )
    return _KNOWN[which]


def code_version(which: Step) -> str:
    """Return the version of the code that a run records."""
    return f"{which.name} {which.version}, qmri_lake {__version__}"


def read_exam(root: Node, group: str, names: Sequence[str], row: int) -> xr.Dataset:
    """Read one exam's variables into memory, cropped to its true extent.

    Returns
    -------
    Dataset
        Of one exam, whose key is in the scalar coordinates `exam`, `patient`, `timepoint` and
        `knee`. Spatial arrays have the exam's own number of slices, rows and
        columns, echo arrays its own number of echoes.
    """
    source = root[group]
    box = _extent(source, row)
    arrays: dict[str, Any] = {}
    for name in names:
        array = source[name]
        dims = array.metadata.dimension_names[1:]
        index = tuple(slice(0, box.get(dim)) for dim in dims)
        arrays[name] = (dims, np.asarray(array[(row, *index)]), dict(array.attrs))
    coords = {name: root[name][row].item() for name in ("exam", *KEYS)}
    return xr.Dataset(arrays, coords)


def _extent(group: Node, row: int) -> dict[str, int]:
    box: dict[str, int] = {}
    if "extent" in group:
        extent = group["extent"][row]
        if (extent > 0).all():
            box = dict(zip(("slice", "row", "column"), extent.tolist(), strict=True))
    if "echo_time" in group:
        echoes = int(np.isfinite(group["echo_time"][row]).sum())
        if echoes:
            box["echo"] = echoes
    return box


def write_exam(
    root: Node,
    variables: Sequence[Variable],
    product: Product | xr.Dataset,
    row: int,
    exam: str,
    variant: str = "",
    read: Sequence[xr.Dataset] = (),
) -> dict[str, Any]:
    """Write an exam's bulk arrays as whole shards; return its small values by path.

    Small values are not written here: tasks share their chunks, and would lose each other's. Where
    the exam's extent is known, from the group or from what was `read`, arrays must have it: a cut
    or transposed one would fit into the lake's larger array.
    """
    if not isinstance(product, (Mapping, xr.Dataset)):
        raise VariableError(
            f"a result that is a {type(product).__name__}",
            expected="a mapping from name to array, or a Dataset",
            where=exam,
        )
    unknown = {str(n) for n in product} - {v.name for v in variables}
    if unknown:
        raise VariableError(
            f"variable {sorted(unknown)[0]!r}",
            expected=f"one of {', '.join(v.name for v in variables)}",
            where=exam,
            todo="Declare it in writes=[...].",
        )
    box = {**_common_sizes(read), **_extent(root[variables[0].group], row)}
    small: dict[str, Any] = {}
    for variable in variables:
        if variable.name not in product:
            continue
        value = product[variable.name]
        if isinstance(value, xr.DataArray):
            value = value.transpose(*variable.dims).values
        checked = variable.check(value, exam)
        path = with_variant(variable.path, variant)
        array = root[path]
        _check_shape(variable, checked.shape, array.shape[1:], box, exam)
        full = fill_shape(checked, array.shape[1:], variable.fill)
        if variable.bulk:
            array[row] = full
        else:
            small[path] = full if variable.dims else full.item()
    return small


def _common_sizes(datasets: Sequence[xr.Dataset]) -> dict[str, int]:
    """Return the sizes of the dims that are the same in all Datasets that have them."""
    found: dict[str, set[int]] = {}
    for ds in datasets:
        for dim, size in ds.sizes.items():
            found.setdefault(str(dim), set()).add(size)
    return {dim: sizes.pop() for dim, sizes in found.items() if len(sizes) == 1}


def _check_shape(
    variable: Variable,
    shape: Sequence[int],
    largest: Sequence[int],
    box: Mapping[str, int],
    exam: str,
) -> None:
    """Refuse an array of another shape than the exam's, or than the lake's where that is fixed."""
    known = dict(zip(variable.dims, largest, strict=True))
    expected = {dim: min(box.get(dim, n), n) for dim, n in known.items()}
    sizes = dict(zip(variable.dims, shape, strict=True))
    # An image that is being ingested has no extent yet: it may be smaller than the array.
    free = {dim for dim in known if dim in _OF_THE_EXAM and dim not in box}
    if all(n == expected[dim] or (dim in free and n < known[dim]) for dim, n in sizes.items()):
        return
    raise VariableError(
        f"shape {tuple(shape)}",
        expected=", ".join(f"{n} {dim}" for dim, n in expected.items()),
        where=f"{variable.path} of {exam}",
        todo="Return arrays on the grid of what was read.",
    )
