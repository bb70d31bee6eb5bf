"""Derived lakes: copies of selected exams and products of a lake, with its lineage."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import icechunk
import numpy as np

from qmri_lake.core.disk_full import disk_full
from qmri_lake.core.text import counted, did_you_mean
from qmri_lake.core.version import __version__
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.run import TaskResult, execute
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.history import list_commits
from qmri_lake.lake.lineage import Origin, origin_of, origin_record
from qmri_lake.lake.reading import visits_of
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable, with_variant
from qmri_lake.store.arrays import Node, create_array, open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.runs import read_runs, write_run
from qmri_lake.store.snapshot import Snapshot, open_snapshot
from qmri_lake.store.status import (
    INPUT_RUNS,
    declare_input_runs,
    declare_status,
    read_messages,
    read_status,
    status_steps,
)
from qmri_lake.store.transaction import OWN_AXIS, append_exams, exam_count

__all__ = ["STEP", "derive_lake"]

T = TypeVar("T", bound=Snapshot)

STEP = "derive"
"""Name of the run that copies, and of its status."""

GEOMETRY_ARRAYS = ("affine", "extent", "echo_time")
"""Small arrays that are needed to read any other array of their group."""


def derive_lake(
    lake: Snapshot,
    create: Callable[[], T],
    cohort: Cohort,
    products: Sequence[str],
    *,
    cluster: object,
    **options: Any,
) -> T:
    """Derive a lake; see `Lake.derive`.

    `create` opens or creates the new lake. It is called after the arguments have been checked.
    `options` are passed to `qmri_lake.execution.run.execute`.
    """
    names = _names(lake, products)
    if not len(cohort):
        raise InputError(
            "empty cohort",
            expected="at least 1 exam",
            where=STEP,
            todo="cohort.flow() shows which condition excluded the exams.",
            reason=Reason.ABSENT_EXAM,
        )
    study = create()
    with study.writing():  # meanwhile, another process may have begun the derivation
        origin = origin_of(study.root)
        source, exams = _source_at_start(study, origin, lake, cohort, names)
        copied = _arrays(source, names)
        if origin is None:
            _begin(study, lake, cohort, names, copied)
        elif origin.finished:
            _refuse_changed(study, lake, cohort, names)
            return study
        _copy(study, source, exams, copied, cluster=cluster, **options)
        _finish(study, source, exams, copied)
    return study


def _names(lake: Snapshot, products: Sequence[str]) -> tuple[str, ...]:
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


def _arrays(lake: Snapshot, names: Sequence[str]) -> dict[str, Variable]:
    """Return the arrays of the products, by path.

    If a step wrote a product, all arrays that it wrote in the same group are included, because the
    status of the step applies to all of them.
    """
    stored = lake.variables()
    # Outcomes and matched sets of a study are always copied.
    chosen = {path: v for path, v in stored.items() if v.step == STEP}
    for name in names:
        if name in stored:
            step = _status_of(name, stored[name])
            same = {
                p: v
                for p, v in stored.items()
                if v.group == stored[name].group and _status_of(p, v) == step
            }
        else:
            same = {path: v for path, v in stored.items() if v.group == name}
        chosen |= same
        group = name.partition("/")[0]
        chosen |= {p: stored[p] for n in GEOMETRY_ARRAYS if (p := f"{group}/{n}") in stored}
    return chosen


def _status_of(path: str, variable: Variable) -> str:
    return with_variant(variable.step, path.partition("__")[2])


def _source_at_start(
    target: Snapshot, origin: Origin | None, lake: Snapshot, cohort: Cohort, names: Sequence[str]
) -> tuple[Snapshot, Cohort]:
    """Return the source and the cohort, both at the snapshot from which `target` was begun."""
    if origin is None and not len(target):
        if cohort.lake.snapshot != lake.snapshot:
            raise RunError(
                f"a cohort of snapshot {cohort.lake.snapshot}",
                expected=f"a cohort of snapshot {lake.snapshot}",
                where=lake.url,
                todo="Select the cohort from this lake: its flow is stored as lineage.",
            )
        return lake, cohort  # the target is new, or was interrupted before its first commit
    wanted = cohort.exams["exam"].tolist()
    if origin is None:
        found = "a lake that was not derived"
    elif origin.products != tuple(names):
        found = f"a lake derived with other products: {', '.join(origin.products)}"
    elif target.exams["exam"].tolist() != wanted:
        found = f"a lake derived with other exams ({len(target):,}) than these {len(wanted):,}"
    elif other := _other_columns(target, origin, cohort):
        found = f"a lake derived with other values of {' and '.join(other)}"
    elif origin.snapshot != lake.snapshot and origin.snapshot not in set(
        list_commits(lake.repo, lake.snapshot, None)["snapshot"]
    ):
        found = f"a lake derived from another lake or a later snapshot: {origin}"
    else:
        source = open_snapshot(lake.location, origin.snapshot)
        return source, Cohort.everything(source).of_exams(wanted, "begun with")
    raise RunError(
        found,
        expected="an empty folder, or the same exams and products to resume",
        where=target.url,
        todo="Derive into another folder.",
    )


def _other_columns(target: Snapshot, origin: Origin, cohort: Cohort) -> list[str]:
    """Return the added columns that differ between the cohort and the derived lake."""
    root = target.root
    other = set(origin.added) ^ set(cohort.added)
    for name in set(origin.added) & set(cohort.added):
        stored, column = root[f"clinical/{name}"], cohort.added[name]
        same = stored.attrs["long_name"] == column.description
        if not (same and np.array_equal(stored[...], column.values)):
            other.add(name)
    return sorted(other)


def _refuse_changed(target: Snapshot, lake: Snapshot, cohort: Cohort, names: Sequence[str]) -> None:
    """Raise an error if the source has newer products than the finished study."""
    for step in _steps(lake, _arrays(lake, names)):
        ours, theirs = (read_status(one.root, step, len(one)) for one in (target, lake))
        rows = cohort.rows
        if not (
            np.array_equal(ours.run, theirs.run[rows])
            and np.array_equal(ours.state, theirs.state[rows])
        ):
            raise RunError(
                f"a lake derived before {step} ran again in {lake.url}",
                expected="the same products, or an empty folder",
                where=target.url,
                todo="Open it with open_lake, or derive into another folder.",
            )


def _begin(
    target: Snapshot,
    lake: Snapshot,
    cohort: Cohort,
    names: Sequence[str],
    copied: Mapping[str, Variable],
) -> None:
    """Commit the exams, empty volumes and maps, all small arrays, and the records of their runs."""
    source = lake.root
    runs = read_runs(source)
    states = [read_status(source, step, len(lake)) for step in _steps(lake, copied)]
    made_by = {int(n) for status in states for n in np.unique(status.run[cohort.rows])}
    record = origin_record(lake, cohort, names)

    def begin(session: icechunk.Session) -> None:
        if exam_count(open_root(session.store)):  # another process has committed first
            raise RunError(
                "another process has begun to derive this lake",
                expected="one process",
                where=target.url,
                todo="Wait until it ends, or derive into another folder.",
            )
        append_exams(session, cohort.exams[list(KEYS)])
        root = open_root(session.store, "r+")
        about = dict(source.attrs["qmri_lake"])
        root.attrs["qmri_lake"] = {
            **root.attrs["qmri_lake"],
            "profile": about["profile"],
            "origin": record,
        }
        for group in dict.fromkeys(variable.group for variable in copied.values()):
            _copy_group(source, root, group, copied, cohort)
        _add_columns(root, cohort)
        # Runs keep their numbers, because states refer to them and the detection of stale results
        # depends on them.
        for number in sorted(made_by & set(runs)):
            write_run(root, number, runs[number])
        declare_status(root, STEP, len(cohort))

    message = f"Derive {counted(len(cohort), 'exam')} from {record['lake']} at {lake.snapshot[:8]}"
    with translated_errors(target.url):
        commit(target.repo, begin, message, {"step": STEP})
    target.refresh()


def _copy_group(
    source: Node, root: Node, group: str, copied: Mapping[str, Variable], cohort: Cohort
) -> None:
    """Create the arrays of a group as in the source, and copy all values but volumes and maps."""
    made = root.require_group(group)
    made.attrs.update(dict(source[group].attrs))
    rows = cohort.rows
    if group in OWN_AXIS:
        rows = visits_of(source[f"{group}/patient"][...], cohort.exams["patient"].to_numpy())
    for name, array in source[group].arrays():
        path = f"{group}/{name}"
        other_axis = array.metadata.dimension_names[0] not in ("exam", "visit")
        if path not in copied and not other_axis:
            continue
        length = array.shape[:1] if other_axis else (len(rows),)
        copy = made.create_array(
            name,
            shape=(*length, *array.shape[1:]),
            dtype=array.dtype,
            chunks=array.chunks,
            shards=array.shards,
            fill_value=array.fill_value,
            filters=array.filters,
            serializer=array.serializer,
            compressors=array.compressors,
            dimension_names=array.metadata.dimension_names,
            attributes=dict(array.attrs),
        )
        if other_axis:
            copy[...] = array[...]
        elif not copied[path].bulk:
            copy[...] = array[...][rows]


def _add_columns(root: Node, cohort: Cohort) -> None:
    """Store the added columns of the cohort, outcomes and matched sets, in group clinical."""
    for name, column in cohort.added.items():
        variable = Variable(
            "clinical",
            name,
            (),
            "int32",
            column.description,
            fill_meaning="no value",
            valid_range=column.valid_range,
            step=STEP,
        )
        group = root.require_group(variable.group)
        create_array(group, variable, name, len(cohort), {})
        group[name][...] = column.values


@dataclass(frozen=True, slots=True)
class _CopyTask:
    row: int
    exam: str
    source_row: int
    paths: tuple[str, ...]
    """Paths of the volumes and maps that the exam has."""
    steps: tuple[str, ...] = (STEP,)
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _CopyExam:
    """Function that copies one exam on a worker."""

    location: str
    snapshot: str

    def __call__(self, fork: icechunk.ForkSession, task: _CopyTask) -> TaskResult:
        """Copy an exam's volumes and maps as whole shards."""
        source, root = _opened(self.location, self.snapshot), open_root(fork.store, "r+")
        if not source["exam"][task.source_row] == task.exam == root["exam"][task.row]:
            raise RunError(
                f"the rows of {task.exam} do not match",
                expected="exams in the order in which the derivation began",
                where=STEP,
                todo="Derive into another folder.",
            )
        path = ""
        try:
            for path in task.paths:
                root[path][task.row] = source[path][task.source_row]
        except Exception as error:  # a missing or damaged chunk must not stop the other exams
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            # The message omits the text of the error, which would reveal the folder of the source.
            message = f"unreadable chunk of {path} ({type(error).__name__})"
            return TaskResult(task.row, task.exam, {STEP: ("failed", message)})
        return TaskResult(task.row, task.exam, {STEP: ("done", "")}, fork)


@functools.lru_cache(maxsize=2)
def _opened(location: str, snapshot: str) -> Node:
    """Open the source, once in each worker."""
    try:
        return open_snapshot(location, snapshot).root
    except Exception as error:  # end the run; otherwise, every exam would fail with this error
        raise RunError(
            f"the source cannot be opened: {type(error).__name__}",
            expected=f"the lake at {snapshot}, accessible from each worker",
            where=STEP,
        ) from error


def _copy(
    target: Snapshot,
    lake: Snapshot,
    cohort: Cohort,
    copied: Mapping[str, Variable],
    *,
    cluster: object,
    **options: Any,
) -> None:
    """Copy volumes and maps of the exams that have not been copied yet."""
    from qmri_lake.execution.cluster import running

    has = {
        path: read_status(lake.root, _status_of(path, variable), len(lake)).usable
        for path, variable in copied.items()
        if variable.bulk
    }
    done = read_status(target.root, STEP, len(target)).usable
    tasks = [
        _CopyTask(
            row, str(exam), int(at), tuple(path for path, available in has.items() if available[at])
        )
        for row, (exam, at) in enumerate(zip(cohort.exams["exam"], cohort.rows, strict=True))
        if not done[row]
    ]
    if tasks:
        record = {
            "step": STEP,
            "parameters": {"products": sorted(copied)},
            "version": "1",
            "code": f"qmri_lake {__version__}",
            "snapshot": lake.snapshot,
        }
        copy_exam = _CopyExam(lake.location, lake.snapshot)
        with running(cluster) as client:
            execute(target, STEP, record, None, copy_exam, tasks, cluster=client, **options)
    lost = np.flatnonzero(~read_status(target.root, STEP, len(target)).usable)
    if lost.size:
        first = target.exams["exam"].iloc[lost[0]]
        raise RunError(
            f"{counted(len(lost), 'exam')} not copied, first {first}: "
            f"{read_messages(target.root, STEP)[lost[0]]}",
            expected="all exams",
            where=target.url,
            todo="Restore the files of the source at its snapshot and derive again; copied exams "
            "are kept. Or derive into another folder from the newest snapshot.",
        )


def _finish(
    target: Snapshot, lake: Snapshot, cohort: Cohort, copied: Mapping[str, Variable]
) -> None:
    """Commit the states, so that the products become available for all exams at once."""

    def finish(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in _steps(lake, copied):
            group = declare_status(root, step, len(cohort))
            source = lake.root[f"status/{step}"]
            for name in ("state", "run", "message"):
                group[name][...] = source[name][...][cohort.rows]
            for needed in source[INPUT_RUNS].array_keys() if INPUT_RUNS in source else ():
                runs = source[f"{INPUT_RUNS}/{needed}"][...][cohort.rows]
                declare_input_runs(group, needed, len(cohort))[...] = runs
        about = dict(root.attrs["qmri_lake"])
        root.attrs["qmri_lake"] = {**about, "origin": {**about["origin"], "finished": True}}

    with translated_errors(target.url):
        commit(target.repo, finish, f"Derived {counted(len(cohort), 'exam')}", {"step": STEP})
    target.refresh()


def _steps(lake: Snapshot, copied: Mapping[str, Variable]) -> list[str]:
    """Return the steps whose products are copied. Geometry arrays alone are not a product."""
    steps = {
        _status_of(path, variable)
        for path, variable in copied.items()
        if variable.name not in GEOMETRY_ARRAYS and variable.group not in OWN_AXIS
    }
    steps.discard(STEP)  # this is the status of the copy itself
    return sorted(steps & set(status_steps(lake.root)))
