"""Derived lakes: chosen exams and products of a lake as a lake of their own, with its lineage."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np

from qmri_lake import __version__
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError, did_you_mean
from qmri_lake.index import KEYS
from qmri_lake.origin import Origin, origin_of, origin_record
from qmri_lake.reading import visits_of
from qmri_lake.run import Outcome, execute
from qmri_lake.status import (
    declare_status,
    read_messages,
    read_runs,
    read_status,
    status_steps,
    write_run,
)
from qmri_lake.storage import (
    Node,
    commit,
    create_array,
    disk_full,
    open_root,
    translated_errors,
)
from qmri_lake.summary import counted
from qmri_lake.variables import Variable, with_variant
from qmri_lake.writing import OWN_AXIS, append_exams, exam_count

if TYPE_CHECKING:
    from qmri_lake.cohort import Cohort
    from qmri_lake.lake import Lake

__all__ = ["STEP", "derive_lake"]

STEP = "derive"
"""Name of the run that copies, and of its status."""

GEOMETRY = ("affine", "extent", "echo_time")
"""Small arrays without which no other one of their group can be read."""


def derive_lake(
    lake: Lake,
    url: str,
    cohort: Cohort,
    products: Sequence[str],
    *,
    cluster: Any,
    **options: Any,
) -> Lake:
    """Derive a lake: see `Lake.derive`; `options` are those of `qmri_lake.run.execute`."""
    from qmri_lake.ingestion import existing_lake
    from qmri_lake.lake import create_lake

    names = _names(lake, products)
    if not len(cohort):
        raise InputError(
            "a cohort of no exam", expected="at least one", where=STEP,
            todo="Its flow() says why each went.", reason=Reason.ABSENT_EXAM,
        )  # fmt: skip
    target = existing_lake(url)
    if target is None:
        target = create_lake(url)
    with target.writing():  # whoever was faster has begun it by now
        origin = origin_of(target.root)
        begun, there = _as_begun(target, origin, lake, cohort, names)
        copied = _arrays(begun, names)
        if origin is None:
            _begin(target, lake, cohort, names, copied)
        elif origin.finished:
            _refuse_changed(target, lake, cohort, names)
            return target
        _copy(target, begun, there, copied, cluster=cluster, **options)
        _finish(target, begun, there, copied)
    return target


def _names(lake: Lake, products: Sequence[str]) -> tuple[str, ...]:
    """Return products in the order given, each of them known."""
    if isinstance(products, str):
        products = (products,)
    known = [*lake.groups(), *sorted(lake.variables())]
    for name in products:
        if name not in known:
            raise NotFoundError(
                f"no product {name!r}", expected=f"a group ({', '.join(lake.groups())}) or a "
                "variable of one, such as sphere/map", where=STEP,
                todo=did_you_mean(name, known),
            )  # fmt: skip
    if not products:
        raise InputError("no product", expected="groups or variables, such as sphere/map",
                         where=STEP)  # fmt: skip
    return tuple(dict.fromkeys(products))


def _arrays(lake: Lake, names: Sequence[str]) -> dict[str, Variable]:
    """Return the arrays that products consist of, by path.

    What one step wrote in a group goes as a whole, since the step's status speaks for all of it.
    """
    stored = lake.variables()
    # Outcomes and matched sets are what a study is about: they are never left behind.
    chosen = {path: v for path, v in stored.items() if v.step == STEP}
    for name in names:
        if name in stored:
            made_by = _status_of(name, stored[name])
            same = {p: v for p, v in stored.items()
                    if v.group == stored[name].group and _status_of(p, v) == made_by}  # fmt: skip
        else:
            same = {path: v for path, v in stored.items() if v.group == name}
        chosen |= same
        group = name.partition("/")[0]
        chosen |= {p: stored[p] for n in GEOMETRY if (p := f"{group}/{n}") in stored}
    return chosen


def _status_of(path: str, variable: Variable) -> str:
    return with_variant(variable.step, path.partition("__")[2])


def _as_begun(
    target: Lake, origin: Origin | None, lake: Lake, cohort: Cohort, names: Sequence[str]
) -> tuple[Lake, Cohort]:
    """Return the source at the snapshot from which `target` was begun, and its exams there."""
    from qmri_lake.lake import open_lake

    if origin is None and not len(target):
        if cohort.lake.snapshot != lake.snapshot:
            raise RunError(
                f"a cohort of snapshot {cohort.lake.snapshot}", expected=f"one of {lake.snapshot}",
                where=lake.url, todo="Choose it from this lake: its flow is kept as lineage.",
            )  # fmt: skip
        return lake, cohort  # new, or made and stopped before anything was in it
    wanted = cohort.exams["exam"].tolist()
    if origin is None:
        found = "a lake that was not derived"
    elif origin.products != tuple(names):
        found = f"one derived with {', '.join(origin.products)}"
    elif target.exams["exam"].tolist() != wanted:
        found = f"one derived with {counted(len(target), 'exam')}, not these {len(wanted):,}"
    elif other := _other_columns(target, origin, cohort):
        found = f"one derived with another {' and '.join(other)}"
    elif origin.snapshot != lake.snapshot and origin.snapshot not in set(
        lake.history()["snapshot"]
    ):
        found = f"one derived from another lake, or from a later snapshot ({origin})"
    else:
        begun = open_lake(lake.location, ref=origin.snapshot, mode="r")
        return begun, begun.cohort().of_exams(wanted, "begun with")
    raise RunError(
        found, expected="a new folder, or the same exams and products to go on", where=target.url,
        todo="A derived lake stays what it is: derive into another folder.",
    )  # fmt: skip


def _other_columns(target: Lake, origin: Origin, cohort: Cohort) -> list[str]:
    """Return the columns of the cohort's own that the derived lake has not, or has otherwise."""
    root = target.root
    other = set(origin.added) ^ set(cohort.added)
    for name in set(origin.added) & set(cohort.added):
        stored, column = root[f"clinical/{name}"], cohort.added[name]
        same = stored.attrs["long_name"] == column.description
        if not (same and np.array_equal(stored[...], column.values)):
            other.add(name)
    return sorted(other)


def _refuse_changed(target: Lake, lake: Lake, cohort: Cohort, names: Sequence[str]) -> None:
    """Refuse to pass a study off as new, of whose products the source has newer ones."""
    for step in _steps(lake, _arrays(lake, names)):
        ours, theirs = (read_status(one.root, step, len(one)) for one in (target, lake))
        rows = cohort.rows
        if not (
            np.array_equal(ours.run, theirs.run[rows])
            and np.array_equal(ours.state, theirs.state[rows])
        ):
            raise RunError(
                f"one derived before {step} ran again in {lake.url}",
                expected="the same products, or a new folder", where=target.url,
                todo="Open it as it is, or derive into another folder.",
            )  # fmt: skip


def _begin(
    target: Lake,
    lake: Lake,
    cohort: Cohort,
    names: Sequence[str],
    copied: Mapping[str, Variable],
) -> None:
    """Commit exams, empty volumes and maps, all small values, and the runs that made them."""
    source = lake.root
    runs = read_runs(source)
    states = [read_status(source, step, len(lake)) for step in _steps(lake, copied)]
    made_by = {int(n) for status in states for n in np.unique(status.run[cohort.rows])}
    record = origin_record(lake, cohort, names)

    def begin(session: icechunk.Session) -> None:
        if exam_count(open_root(session.store)):  # applied again: another one's commit came first
            raise RunError("another derivation, begun meanwhile", expected="one at a time",
                           where=target.url, todo="Start again.")  # fmt: skip
        append_exams(session, cohort.exams[list(KEYS)])
        root = open_root(session.store, "r+")
        about = dict(source.attrs["qmri_lake"])
        root.attrs["qmri_lake"] = {**root.attrs["qmri_lake"], "profile": about["profile"],
                                   "origin": record}  # fmt: skip
        for group in dict.fromkeys(variable.group for variable in copied.values()):
            _copy_group(source, root, group, copied, cohort)
        _add_columns(root, cohort)
        # By the numbers that the states know them by, so that what is stale stays known.
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
    """Make the arrays of a group as they are in the source; fill all but volumes and maps."""
    made = root.require_group(group)
    made.attrs.update(dict(source[group].attrs))
    rows = cohort.rows
    if group in OWN_AXIS:
        rows = visits_of(source[f"{group}/patient"][...], cohort)
    for name, array in source[group].arrays():
        path = f"{group}/{name}"
        own = array.metadata.dimension_names[0] not in ("exam", "visit")
        if path not in copied and not own:
            continue
        length = array.shape[:1] if own else (len(rows),)
        twin = made.create_array(
            name, shape=(*length, *array.shape[1:]), dtype=array.dtype, chunks=array.chunks,
            shards=array.shards, fill_value=array.fill_value, filters=array.filters,
            serializer=array.serializer, compressors=array.compressors,
            dimension_names=array.metadata.dimension_names, attributes=dict(array.attrs),
        )  # fmt: skip
        if own:
            twin[...] = array[...]
        elif not copied[path].bulk:
            twin[...] = array[...][rows]


def _add_columns(root: Node, cohort: Cohort) -> None:
    """Store the columns of the cohort's own, outcomes and matched sets, beside clinical ones."""
    for name, column in cohort.added.items():
        variable = Variable(
            "clinical", name, (), "int32", column.description, fill_meaning="no value",
            valid_range=column.valid_range, step=STEP,
        )  # fmt: skip
        group = root.require_group(variable.group)
        create_array(group, variable, name, len(cohort), {})
        group[name][...] = column.values


@dataclass(frozen=True, slots=True)
class _CopyTask:
    row: int
    exam: str
    source_row: int
    paths: tuple[str, ...]
    """Volumes and maps that the exam has."""
    steps: tuple[str, ...] = (STEP,)
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _CopyWork:
    """What a worker needs to copy one exam."""

    location: str
    snapshot: str

    def __call__(self, fork: icechunk.ForkSession, task: _CopyTask) -> Outcome:
        """Copy an exam's volumes and maps, whole shards."""
        source, root = _opened(self.location, self.snapshot), open_root(fork.store, "r+")
        if not source["exam"][task.source_row] == task.exam == root["exam"][task.row]:
            raise RunError(
                f"another exam than {task.exam} in its place", expected="exams in the same order",
                where=STEP, todo="Derive into another folder.",
            )  # fmt: skip
        path = ""
        try:
            for path in task.paths:
                root[path][task.row] = source[path][task.source_row]
        except Exception as error:  # a chunk of one exam is lost, or damaged: the others go on
            full = disk_full(error, task.exam)
            if full is not None:
                raise full from error
            # Without the error's text: it names the source's folder, which a study is not to tell.
            said = f"a chunk of {path} that can't be read ({type(error).__name__})"
            return Outcome(task.row, task.exam, {STEP: ("failed", said)})
        return Outcome(task.row, task.exam, {STEP: ("done", "")}, fork)


@functools.lru_cache(maxsize=2)
def _opened(location: str, snapshot: str) -> Node:
    """Open the source once a worker."""
    from qmri_lake.lake import open_lake

    try:
        return open_lake(location, ref=snapshot, mode="r").root
    except Exception as error:  # would fail every exam, and be told of each
        raise RunError(
            f"a source that can't be opened ({type(error).__name__})",
            expected=f"the lake at {snapshot}, where each worker reaches it", where=STEP,
        ) from error  # fmt: skip


def _copy(
    target: Lake,
    lake: Lake,
    cohort: Cohort,
    copied: Mapping[str, Variable],
    *,
    cluster: Any,
    **options: Any,
) -> None:
    """Copy volumes and maps of the exams that have not been copied yet."""
    from qmri_lake.compute import running

    has = {
        path: read_status(lake.root, _status_of(path, variable), len(lake)).usable
        for path, variable in copied.items()
        if variable.bulk
    }
    done = read_status(target.root, STEP, len(target)).usable
    tasks = [
        _CopyTask(row, str(exam), int(at), tuple(path for path, there in has.items() if there[at]))
        for row, (exam, at) in enumerate(zip(cohort.exams["exam"], cohort.rows, strict=True))
        if not done[row]
    ]
    if tasks:
        record = {
            "step": STEP, "parameters": {"products": sorted(copied)}, "version": "1",
            "code": f"qmri_lake {__version__}", "snapshot": lake.snapshot,
        }  # fmt: skip
        run = max(read_runs(target.root), default=0) + 1
        work = _CopyWork(lake.location, lake.snapshot)
        with running(cluster) as client:
            execute(target, STEP, run, record, None, work, tasks, cluster=client, **options)
    lost = np.flatnonzero(~read_status(target.root, STEP, len(target)).usable)
    if lost.size:
        first = target.exams["exam"].iloc[lost[0]]
        raise RunError(
            f"{counted(len(lost), 'exam')} that could not be copied, first {first}: "
            f"{read_messages(target.root, STEP)[lost[0]]}",
            expected="all of them", where=target.url,
            todo="It was begun from a snapshot of the source: restore that one's files and derive "
            "again, what is copied stays; or derive into another folder from what it is now.",
        )  # fmt: skip


def _finish(target: Lake, lake: Lake, cohort: Cohort, copied: Mapping[str, Variable]) -> None:
    """Commit the states: products are there for all exams or for none."""

    def finish(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in _steps(lake, copied):
            group = declare_status(root, step, len(cohort))
            for name in ("state", "run", "message"):
                group[name][...] = lake.root[f"status/{step}/{name}"][...][cohort.rows]
        about = dict(root.attrs["qmri_lake"])
        root.attrs["qmri_lake"] = {**about, "origin": {**about["origin"], "finished": True}}

    with translated_errors(target.url):
        commit(target.repo, finish, f"Derived {counted(len(cohort), 'exam')}", {"step": STEP})
    target.refresh()


def _steps(lake: Lake, copied: Mapping[str, Variable]) -> list[str]:
    """Return the steps whose products are copied: not those of which it is the geometry alone."""
    made_by = {
        _status_of(path, variable)
        for path, variable in copied.items()
        if variable.name not in GEOMETRY and variable.group not in OWN_AXIS
    }
    made_by.discard(STEP)  # of its own
    return sorted(made_by & set(status_steps(lake.root)))
