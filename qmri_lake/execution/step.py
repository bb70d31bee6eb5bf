"""Steps: functions of one exam that declare which variables they read and write.

Built-in steps and a user's own steps are declared in the same way::

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

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from qmri_lake.core.text import did_you_mean, one_line
from qmri_lake.core.version import __version__
from qmri_lake.errors import NotFoundError, RunError, VariableError
from qmri_lake.execution.declaration import (
    EXAMS_PER_BATCH,
    Batch,
    Parameters,
    Product,
    Reads,
    Result,
    Skip,
    Step,
    Validate,
)
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import Variable

__all__ = [
    "EXAMS_PER_BATCH",
    "Parameters",
    "Product",
    "Result",
    "Skip",
    "Step",
    "find_step",
    "load_steps",
    "register_step",
    "step",
    "temporary_steps",
]

ENTRY_POINTS = "qmri_lake.steps"
"""Group of the entry points of installed steps. Each entry gives a name and a module to import."""

RESERVED = ("derive", "import", "ingest")
"""Names of the package's own runs, which are not allowed for steps."""

_RENAMED_OPTIONS = {
    "copies": "memory_factor",
    "check": "validate",
    "recorded": "recorded_parameters",
    "together": "batch_function",
}
"""Former names of options of `step`."""

_KNOWN: dict[str, Step] = {}
_log = logging.getLogger(__name__)


def step(
    # All arguments are keyword-only options of a decorator; a step uses only a few of them.
    *,
    reads: Reads | Callable[..., Reads],
    writes: Sequence[Variable],
    name: str | None = None,
    version: str = "1",
    memory_factor: float = 3.0,
    gpu: bool = False,
    validate: Validate | None = None,
    recorded_parameters: Callable[..., Parameters] | None = None,
    memory: Callable[..., int] | None = None,
    batch_function: Batch | None = None,
    with_runs: bool = False,
    notes: Callable[..., Parameters] | None = None,
    **renamed: object,
) -> Callable[[Callable[..., Result]], Step]:
    """Declare a function of one exam as a step (decorator).

    Parameters
    ----------
    reads : mapping of group to names, or a function of the parameters that returns such a mapping
        The function receives one Dataset per group, as positional arguments in this order. Each
        Dataset contains one exam in memory, cropped to its true extent, with the exam's key as
        scalar coordinates, such as ``ds.knee.item()``.
    writes : sequence of Variable
        The variables of the result, all in one group. The function returns a Dataset, or a mapping
        from name to array, with the declared dims. If a name is missing in the result, the exam has
        no value of this variable. Each variable is written by one step only.
    name : str, optional
        Name of the step. Default: the name of the function.
    version : str
        Version of the results. Increase it when the results change: exams computed with another
        version are stale.
    memory_factor : float
        Projected peak memory, divided by the number of bytes read and written.
    gpu : bool
        Request the worker resource ``GPU``.
    validate : function of the parameters, optional
        It is called when a run is planned, and raises an error if the parameters are invalid.
        Without it, an invalid value marks every exam as failed. It may return values that replace
        parameters.
    recorded_parameters : function of the parameters, optional
        It returns the parameters that a run records and compares, for example the digest of a file
        instead of its path. An exam is stale if its recorded parameters differ.
    memory : function of (sizes, parameters), optional
        It returns the peak memory of a task in bytes, from the sizes of the group's dimensions. It
        replaces `memory_factor`.
    batch_function : function, optional
        It computes up to `EXAMS_PER_BATCH` exams at once. Use it where this is faster, as for a
        network. It receives a list of Datasets per group, and returns a result or a `Skip` for each
        exam, in the order of the exams. The variables must not have the dims of a volume. If it
        raises an error, the exams are computed one by one.
    with_runs : bool
        Give each variable that the function reads the attribute ``run``, a mapping with the step
        and the parameters of the run that computed it. It is empty if there is no such run, and for
        Datasets that were not read by a run.
    notes : function of the parameters, optional
        It returns entries that a run adds to its record, for example about a model. They are not
        compared: an exam does not become stale if they differ.
    **renamed
        Former names of options: ``copies``, ``check``, ``recorded`` and ``together``. Deprecated.

    Returns
    -------
    Step
        The step, for ``lake.run(step, cohort, **parameters)``. If the function raises `Skip`, the
        exam is marked as skipped. `RunError` ends the run. Any other exception marks the exam as
        failed. If the returned Dataset has the attribute ``flag``, the exam is marked as flagged,
        and the text of the attribute is the reason.

    Raises
    ------
    VariableError
        If `writes` is empty, spans several groups, or has a variable that another step writes; if a
        `batch_function` writes voxels; or if the name is reserved.
    """
    if renamed:
        return step(
            **{
                "reads": reads,
                "writes": writes,
                "name": name,
                "version": version,
                "memory_factor": memory_factor,
                "gpu": gpu,
                "validate": validate,
                "recorded_parameters": recorded_parameters,
                "memory": memory,
                "batch_function": batch_function,
                "with_runs": with_runs,
                "notes": notes,
                **_new_names(renamed),
            }
        )
    if batch_function is not None and (bulk := [v for v in writes if v.bulk]):
        raise VariableError(
            f"batch_function writes {bulk[0].path}, an array of voxels",
            expected="variables without dims of a volume",
            where="step",
        )
    if not writes or len({variable.group for variable in writes}) != 1:
        raise VariableError(
            f"{len({v.group for v in writes})} groups in writes", expected="exactly one group"
        )

    def decorate(function: Callable[..., Result]) -> Step:
        title = str(name or getattr(function, "__name__", "step"))
        if title in RESERVED:
            raise VariableError(
                f"the name {title!r} is reserved",
                expected=f"a name other than {', '.join(RESERVED)}",
                where="step",
                todo="The package's own runs have these names. Pass another name=.",
            )
        load_steps()
        return register_step(
            Step(
                title,
                function,
                reads,
                tuple(replace(variable, step=title) for variable in writes),
                version,
                memory_factor,
                gpu,
                validate,
                recorded_parameters,
                memory,
                batch_function,
                with_runs,
                notes,
            )
        )

    return decorate


def register_step(which: Step) -> Step:
    """Declare a step and its variables in this process, as the decorator `step` does.

    Raises
    ------
    VariableError
        If another step writes one of its variables.
    """
    for variable in which.writes:
        _refuse_second_writer(variable, which.name)
    for variable in which.writes:
        REGISTRY.add(variable)
    _KNOWN[which.name] = which
    return which


def _new_names(renamed: Mapping[str, object]) -> dict[str, Any]:
    """Return options by their current names; warn of each former name."""
    options = {}
    for old, value in renamed.items():
        if old not in _RENAMED_OPTIONS:
            raise TypeError(f"step() got an unexpected keyword argument {old!r}")
        warnings.warn(
            f"the option {old!r} of ql.step is now called {_RENAMED_OPTIONS[old]!r}",
            DeprecationWarning,
            stacklevel=3,
        )
        options[_RENAMED_OPTIONS[old]] = value
    return options


def _refuse_second_writer(variable: Variable, step: str) -> None:
    """Raise an error for a step that writes a variable of another step, such as raw images.

    With two writers, the status of neither step would describe the stored values. The same step may
    be declared again.
    """
    writer = REGISTRY[variable.path].step if variable.path in REGISTRY else ""
    if writer and writer != step:
        raise VariableError(
            f"writes has {variable.path}, which step {writer} writes",
            expected="variables that no other step writes",
            where=f"step {step}",
            todo="Rename the variable. For a second version of an existing one, use a variant: "
            f"lake.run({writer!r}, variant=...).",
        )


_import_errors: dict[str, str] = {}


class _Loading(threading.local):
    """Whether this thread has called `load_steps`; importing a module with steps calls it again."""

    started = False


_loading = _Loading()


def load_steps() -> Mapping[str, str]:
    """Import all installed steps, of this package and of other packages, once per process.

    A step registers itself and declares its variables when its module is imported. The entry points
    in the group ``qmri_lake.steps`` name the modules.

    Returns
    -------
    mapping of str to str
        Error of each module that could not be imported, by the name of the entry point. A step of
        another package that cannot be imported gives a warning, and all other steps stay usable.
    """
    if _loading.started:
        return _import_errors
    installed = entry_points(group=ENTRY_POINTS)
    if not any(entry.value.startswith("qmri_lake.") for entry in installed):
        raise RunError(
            "no entry points of qmri_lake's own steps",
            expected="an installed package of this version",
            where=ENTRY_POINTS,
            todo="Install it again: pip install . (or make env).",
        )
    _loading.started = True
    for entry in installed:
        try:
            entry.load()
        except Exception as error:
            if entry.value.startswith("qmri_lake."):
                _loading.started = False
                raise
            if entry.name in _import_errors:  # another thread has warned already
                continue
            _import_errors[entry.name] = one_line(error)
            _log.debug("cannot import step %s", entry.name, exc_info=True)
            warnings.warn(
                f"step {entry.name!r} cannot be imported from {entry.value}: {one_line(error)}",
                stacklevel=2,
            )
    return _import_errors


def find_step(which: str | Step) -> Step:
    """Return the step with the given name; a `Step` is returned unchanged.

    Raises
    ------
    NotFoundError
        If no step has this name, or if its module could not be imported.
    """
    failed = load_steps()  # also for a given Step, which may read variables of other steps
    if isinstance(which, Step):
        return which
    if which not in _KNOWN:
        if which in failed:
            raise NotFoundError(
                f"step {which!r} is installed but cannot be imported: {failed[which]}",
                expected="a module that can be imported",
                todo="Repair or uninstall the package that provides it.",
            )
        raise NotFoundError(
            f"no step {which!r}",
            expected=f"one of {', '.join(sorted(_KNOWN))}",
            todo=did_you_mean(which, sorted(_KNOWN))
            or f"Import your own step first, or install it with an entry point in the group "
            f"{ENTRY_POINTS}.",
        )
    return _KNOWN[which]


@contextmanager
def temporary_steps() -> Iterator[None]:
    """At the end of the ``with`` block, remove the steps, variables and groups declared inside."""
    load_steps()
    known = dict(_KNOWN)
    with REGISTRY.temporary(), GROUPS.temporary():
        try:
            yield
        finally:
            _KNOWN.clear()
            _KNOWN.update(known)


def code_version(which: Step) -> str:
    """Return the code version that a run records."""
    return f"{which.name} {which.version}, qmri_lake {__version__}"
