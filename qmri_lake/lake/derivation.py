"""Derived lakes: copies of selected exams and products of a lake, with its lineage."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.core.version import __version__
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.execution.run import execute
from qmri_lake.execution.step import load_steps
from qmri_lake.lake.cohort import Cohort
from qmri_lake.lake.copy_rules import CopyRules
from qmri_lake.lake.deidentification import Deidentification
from qmri_lake.lake.derived_products import (
    STEP,
    check_products,
    product_arrays,
    product_steps,
    status_of,
)
from qmri_lake.lake.exam_copy import CopyExam, CopyTask
from qmri_lake.lake.history import list_commits
from qmri_lake.lake.lineage import Origin, origin_of, origin_record
from qmri_lake.lake.pseudonyms import draw_pseudonyms
from qmri_lake.lake.reading import visits_of
from qmri_lake.schema.exam_index import KEYS
from qmri_lake.schema.variable import Variable
from qmri_lake.store.arrays import Node, create_array, open_root
from qmri_lake.store.lake_properties import read_properties, update_properties
from qmri_lake.store.repository import commit, resolve, translated_errors
from qmri_lake.store.runs import keep_patients, read_runs, write_run
from qmri_lake.store.snapshot import DEIDENTIFICATION, Snapshot, open_snapshot
from qmri_lake.store.status import (
    INPUT_RUNS,
    declare_input_runs,
    declare_status,
    read_messages,
    read_status,
)
from qmri_lake.store.transaction import OWN_AXIS, append_exams, exam_count

__all__ = ["STEP", "derive_lake"]

T = TypeVar("T", bound=Snapshot)


def derive_lake(
    lake: Snapshot,
    create: Callable[[], T],
    cohort: Cohort,
    products: Sequence[str],
    *,
    url: str,
    pseudonymise: str | os.PathLike[str] | None,
    cluster: object,
    **options: Any,
) -> T:
    """Derive a lake; see `Lake.derive`.

    `create` opens or creates the new lake at `url`. It is called after the arguments have been
    checked. `options` are passed to `qmri_lake.execution.run.execute`.
    """
    names = check_products(lake, products)
    if not len(cohort):
        raise InputError(
            "empty cohort",
            expected="at least 1 exam",
            where=STEP,
            todo="cohort.flow() shows which condition excluded the exams.",
            reason=Reason.ABSENT_EXAM,
        )
    rules = _rules(lake, cohort, pseudonymise, url)
    cohort = rules.order(cohort)
    if rules.record is not None and not rules.arrays(product_arrays(lake, names), names):
        raise InputError(
            "no product that a pseudonymised lake may contain",
            expected="images, masks, maps or declared columns",
            where=STEP,
            todo="Name own columns one by one: clinical/COLUMN.",
        )
    study = create()
    with study.writing():  # meanwhile, another process may have begun the derivation
        origin = origin_of(study.root)
        source, exams = _source_at_start(study, origin, lake, cohort, names, rules)
        rules = _rules(source, cohort, pseudonymise, url)
        exams = rules.order(exams)
        copied = rules.arrays(product_arrays(source, names), names)
        if origin is None:
            _begin(study, lake, cohort, names, copied, rules)
        elif origin.finished:
            _refuse_changed(study, lake, cohort, names, rules)
            return study
        _copy(study, source, exams, copied, rules, cluster=cluster, **options)
        _finish(study, source, exams, copied, rules)
    return study


def _rules(
    lake: Snapshot, cohort: Cohort, key_file: str | os.PathLike[str] | None, url: str
) -> CopyRules:
    """Return the rules of the derivation; draw the pseudonyms that the key file does not have."""
    if key_file is None:
        return CopyRules()
    load_steps()  # declares the variables of all installed steps
    patients = cohort.exams["patient"].tolist()
    lakes = (lake.location, resolve(url))
    drawn = draw_pseudonyms(key_file, patients, lake.all_patients(), lakes)
    return Deidentification.of(lake, drawn)


def _source_at_start(
    target: Snapshot,
    origin: Origin | None,
    lake: Snapshot,
    cohort: Cohort,
    names: Sequence[str],
    rules: CopyRules,
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
    wanted = rules.keys(cohort.exams)["exam"].tolist()
    if origin is None:
        found = "a lake that was not derived"
    elif (target.deidentification is None) != ((rules.record or lake.deidentification) is None):
        found = f"a lake derived with{'' if target.deidentification else 'out'} new patient numbers"
    elif origin.products != tuple(names):
        found = f"a lake derived with other products: {', '.join(origin.products)}"
    elif target.exams["exam"].tolist() != wanted:
        found = f"a lake derived with other exams ({len(target):,}) than these {len(wanted):,}"
    elif other := _other_columns(target, origin, cohort):
        found = f"a lake derived with other values of {' and '.join(other)}"
    elif origin.snapshot != lake.snapshot and origin.snapshot not in set(
        list_commits(lake, None)["snapshot"]
    ):
        found = f"a lake derived from another lake or a later snapshot: {origin}"
    else:
        source = open_snapshot(lake.location, origin.snapshot)
        return source, Cohort.everything(source).of_exams(
            cohort.exams["exam"].tolist(), "begun with"
        )
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


def _refuse_changed(
    target: Snapshot, lake: Snapshot, cohort: Cohort, names: Sequence[str], rules: CopyRules
) -> None:
    """Raise an error if the source has newer products than the finished derived lake."""
    for step in product_steps(lake, rules.arrays(product_arrays(lake, names), names)):
        ours = read_status(target.root, rules.step(step), len(target))
        theirs = read_status(lake.root, step, len(lake))
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
    rules: CopyRules,
) -> None:
    """Commit the exams, empty volumes and maps, all small arrays, and the records of their runs."""
    source = lake.root
    runs = read_runs(source)
    states = [read_status(source, step, len(lake)) for step in product_steps(lake, copied)]
    made_by = {int(n) for status in states for n in np.unique(status.run[cohort.rows])}
    plain = origin_record(lake, cohort, names)
    record = rules.lineage(plain)
    keys = rules.keys(cohort.exams)
    deidentification = rules.record or lake.deidentification

    def begin(session: icechunk.Session) -> None:
        if exam_count(open_root(session.store)):  # another process has committed first
            raise RunError(
                "another process has begun to derive this lake",
                expected="one process at a time",
                where=target.url,
                todo="Wait until it ends, or derive into another folder.",
            )
        append_exams(session, keys[list(KEYS)])
        root = open_root(session.store, "r+")
        profile = rules.profile(read_properties(source)["profile"])
        update_properties(root, profile=profile, origin=record)
        if deidentification is not None:
            root.attrs[DEIDENTIFICATION] = deidentification
        for group in dict.fromkeys(variable.group for variable in copied.values()):
            _copy_group(source, root, group, copied, cohort, rules)
        _add_columns(root, cohort)
        # Runs keep their numbers, because states refer to them and the detection of stale results
        # depends on them.
        patients = set(cohort.exams["patient"].tolist())
        for number in sorted(made_by & set(runs)):
            write_run(root, number, keep_patients(rules.run(runs[number]), patients))
        declare_status(root, STEP, len(cohort))

    message = rules.begin_message(cohort, lake, plain["lake"])
    with translated_errors(target.url):
        commit(target.repo, begin, message, {"step": STEP})
    target.refresh()


def _copy_group(
    source: Node,
    root: Node,
    group: str,
    copied: Mapping[str, Variable],
    cohort: Cohort,
    rules: CopyRules,
) -> None:
    """Create the arrays of a group as in the source, and copy all values but volumes and maps."""
    made = root.require_group(group)
    made.attrs.update(rules.group_attributes(group, dict(source[group].attrs)))
    rows, patients = cohort.rows, cohort.exams["patient"].to_numpy()
    if group in OWN_AXIS:
        keys = pd.DataFrame({name: source[f"{group}/{name}"][...] for name in KEYS})
        rows = rules.visits(keys, visits_of(keys["patient"].to_numpy(), patients))
        patients = keys["patient"].to_numpy()[rows]
    for name, array in source[group].arrays():
        path = f"{group}/{name}"
        other_axis = array.metadata.dimension_names[0] not in ("exam", "visit")
        if not (rules.has_coordinate(group, array, name) if other_axis else path in copied):
            continue
        attributes = dict(array.attrs)
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
            attributes=rules.coordinate_attributes(group, name, attributes)
            if other_axis
            else rules.attributes(copied[path], name, attributes),
        )
        if other_axis:
            copy[...] = array[...]
        elif not copied[path].bulk:
            copy[...] = rules.values(copied[path], array[...][rows], patients)


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


def _copy(
    target: Snapshot,
    lake: Snapshot,
    cohort: Cohort,
    copied: Mapping[str, Variable],
    rules: CopyRules,
    *,
    cluster: object,
    **options: Any,
) -> None:
    """Copy volumes and maps of the exams that have not been copied yet."""
    from qmri_lake.execution.cluster import running

    has = {
        path: read_status(lake.root, status_of(path, variable), len(lake)).usable
        for path, variable in copied.items()
        if variable.bulk
    }
    done = read_status(target.root, STEP, len(target)).usable
    names = zip(rules.keys(cohort.exams)["exam"], cohort.exams["exam"], cohort.rows, strict=True)
    tasks = [
        CopyTask(
            row,
            str(exam),
            int(at),
            str(source_exam),
            tuple(path for path, available in has.items() if available[at]),
        )
        for row, (exam, source_exam, at) in enumerate(names)
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
        copy_exam = CopyExam(lake.location, lake.snapshot)
        with running(cluster) as client:
            execute(target, STEP, record, None, copy_exam, tasks, cluster=client, **options)
    lost = np.flatnonzero(~read_status(target.root, STEP, len(target)).usable)
    if lost.size:
        first = target.exams["exam"].iloc[lost[0]]
        raise RunError(
            f"{counted(len(lost), 'exam')} not copied, first {first}: "
            f"{read_messages(target.root, STEP)[lost[0]]}",
            expected="a complete copy of all exams",
            where=target.url,
            todo="Restore the files of the source at its snapshot and derive again; copied exams "
            "are kept. Or derive into another folder from the newest snapshot.",
        )


def _finish(
    target: Snapshot,
    lake: Snapshot,
    cohort: Cohort,
    copied: Mapping[str, Variable],
    rules: CopyRules,
) -> None:
    """Commit the states, so that the products become available for all exams at once."""

    def finish(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for step in product_steps(lake, copied):
            group = declare_status(root, rules.step(step), len(cohort))
            source = lake.root[f"status/{step}"]
            for name in ("state", "run", "message"):
                values = source[name][...][cohort.rows]
                group[name][...] = rules.messages(values) if name == "message" else values
            for needed in source[INPUT_RUNS].array_keys() if INPUT_RUNS in source else ():
                runs = source[f"{INPUT_RUNS}/{needed}"][...][cohort.rows]
                declare_input_runs(group, rules.step(needed), len(cohort))[...] = runs
        update_properties(root, origin={**read_properties(root)["origin"], "finished": True})

    with translated_errors(target.url):
        commit(target.repo, finish, f"Derived {counted(len(cohort), 'exam')}", {"step": STEP})
    target.refresh()
