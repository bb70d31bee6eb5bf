"""Removal of a patient from a lake and its history, when consent is withdrawn.

One commit removes the patient from the newest state of the lake. Then all earlier commits expire,
because each of them may contain the patient, and objects that no commit needs are deleted. If the
process is killed between the two, the same call completes the removal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from qmri_lake.core.patient_traces import PatientTraces
from qmri_lake.core.text import counted, format_bytes
from qmri_lake.errors import NotFoundError, RunError
from qmri_lake.lake.learned import Copy, find_in_lakes, find_in_models
from qmri_lake.lake.lineage import origin_of
from qmri_lake.lake.pruning import expire_commits
from qmri_lake.lake.study_ids import assigned_number, find_patient_number, read_study_ids
from qmri_lake.schema.visits import PATIENTS
from qmri_lake.store.arrays import open_root
from qmri_lake.store.exam_removal import Presence, find_patient, remove_patient, stored_size
from qmri_lake.store.file_checksums import rewriting_files
from qmri_lake.store.head_files import earlier_heads
from qmri_lake.store.location import is_local
from qmri_lake.store.repository import (
    BRANCH,
    commit,
    partial_files,
    translated_errors,
)
from qmri_lake.store.trace_search import TraceSearch, search_objects

if TYPE_CHECKING:
    from qmri_lake.store.snapshot import Snapshot

__all__ = ["STEP", "Forgetting", "forget_patient", "unfinished_removal"]

STEP = "forget"
"""Name of the step in the metadata of the commit that removes a patient."""

_KEYS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What was removed of a patient, or would be removed. Print it to see it."""

    url: str
    patient: int
    exams: tuple[str, ...]
    """Keys of the exams in the newest commit."""
    visits: int
    """Number of rows of the group ``visit``."""
    mentions: int
    """Number of messages, records of runs and attributes in which the number was replaced."""
    size: int
    """Number of stored bytes of the exams' volumes and maps in the newest commit."""
    commits: int
    """Number of commits that expire."""
    tags: tuple[str, ...]
    """Tags whose commits contain the patient; they are deleted."""
    delete_tags: bool
    """Whether tags may be deleted; otherwise the removal is refused if there are `tags`."""
    kept_tags: tuple[str, ...]
    """Tags whose commits do not contain the patient; they are kept."""
    removals: int
    """Number of patients that were removed from the lake before."""
    copies: tuple[Copy, ...]
    """Derived lakes and models that were examined."""
    search: TraceSearch | None
    """Search of all objects after the removal; None if nothing was removed yet."""

    @property
    def done(self) -> bool:
        """Whether the patient was removed."""
        return self.search is not None

    @property
    def found(self) -> bool:
        """Whether the newest commit or a tag contained data of the patient."""
        return bool(self.exams or self.visits or self.mentions or self.tags)

    @property
    def allowed(self) -> bool:
        """Whether no tag prevents the removal."""
        return self.delete_tags or not self.tags

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return a line for the removal and the search, then one for each derived lake or model."""
        parts = [self._parts()]
        if self.commits:
            verb = "expired" if self.done else "would expire"
            parts.append(f"{counted(self.commits, 'commit')} of the history {verb}")
        if self.tags:
            verb = "would be deleted" if self.delete_tags else "must be deleted (--delete-tags)"
            verb = "deleted" if self.done else verb
            names = ", ".join(self.tags)
            parts.append(f"{counted(len(self.tags), 'tag')} with the patient {verb}: {names}")
        if self.kept_tags and self.found:
            names = ", ".join(self.kept_tags)
            parts.append(f"{counted(len(self.kept_tags), 'tag')} without the patient kept: {names}")
        if self.search is not None:
            parts.append(str(self.search))
        return [f"{self.url}: {'; '.join(parts)}", *map(str, self.copies)]

    def _parts(self) -> str:
        if not self.found:
            return (
                f"no exam, visit or mention of patient {self.patient}: removed before "
                f"({counted(self.removals, 'removal')} in this lake), or never ingested"
            )
        shown = ", ".join(self.exams[:_KEYS_SHOWN])
        more = f" and {len(self.exams) - _KEYS_SHOWN:,} more" * (len(self.exams) > _KEYS_SHOWN)
        counts = [
            f"{counted(len(self.exams), 'exam')} ({shown}{more}; {format_bytes(self.size)})"
            if self.exams
            else "no exam",
            counted(self.visits, "visit row"),
            counted(self.mentions, "mention"),
        ]
        verb = "removed" if self.done else "would remove"
        return f"{verb} {', '.join(counts)} of patient {self.patient}"


def forget_patient(
    lake: Snapshot,
    patient: int | str,
    *,
    delete_tags: bool,
    derived: Sequence[str],
    models: Sequence[str | os.PathLike[str]],
    dry_run: bool,
) -> Forgetting:
    """Remove a patient; see `Lake.forget`."""
    low, high = PATIENTS
    if isinstance(patient, str) and not patient.isdigit():
        patient = _number_of(lake, patient)
    if not isinstance(patient, (int, np.integer)) or not low <= patient <= high:
        raise RunError(
            f"patient = {patient!r}",
            expected=f"a patient number from {low} to {high}",
            where=lake.url,
        )
    patient = int(patient)
    traces = PatientTraces(patient, _study_id(lake, patient))
    copies = (*find_in_lakes(derived, traces), *find_in_models(models, traces))
    if dry_run:
        return _plan(lake.refresh(), traces, copies, delete_tags)[0]
    with lake.writing(), rewriting_files(lake.location):
        planned, present = _plan(lake, traces, copies, delete_tags)
        if not planned.allowed:
            raise RunError(
                f"the {'tags' if planned.tags[1:] else 'tag'} {', '.join(planned.tags)} "
                f"{'contain' if planned.tags[1:] else 'contains'} the patient",
                expected="no tag with the patient",
                where=lake.url,
                todo="Delete them with the patient: --delete-tags (delete_tags=True).",
            )
        with translated_errors(lake.url):
            if present:
                commit(
                    lake.repo,
                    lambda session: remove_patient(session, traces),
                    f"Remove a patient with {counted(len(planned.exams), 'exam')}",
                    {"step": STEP},
                )
            for tag in planned.tags:
                lake.repo.delete_tag(tag)
            _complete(lake)
        done = replace(planned, search=search_objects(lake.location, traces))
        _refuse_traces(lake, traces, done)
    return done


def _number_of(lake: Snapshot, text: str) -> int:
    """Return the number of an identifier, also after an interrupted removal."""
    try:
        return find_patient_number(lake.refresh(), text)
    except NotFoundError:
        if lake.removals:
            return assigned_number(text)
        raise


def _study_id(lake: Snapshot, patient: int) -> str:
    """Return the identifier of a patient in the study, also after an interrupted removal."""
    found = read_study_ids(lake.refresh().root).get(patient, "")
    if found or not lake.removals:
        return found
    before = unfinished_removal(lake)
    history = [info.id for info in lake.reopened().ancestry(branch=BRANCH)]
    if before is None or before == history[-1]:
        return ""
    earlier = history[history.index(before) + 1]
    root = open_root(lake.repo.readonly_session(snapshot_id=earlier).store)
    return read_study_ids(root).get(patient, "")


def _plan(
    lake: Snapshot, traces: PatientTraces, copies: tuple[Copy, ...], delete_tags: bool
) -> tuple[Forgetting, Presence]:
    """Determine what a removal removes. Nothing is changed."""
    present = find_patient(lake.root, traces)
    tags = {name: lake.repo.lookup_tag(name) for name in sorted(lake.repo.list_tags())}
    holding = tuple(name for name, snapshot in tags.items() if _holds(lake, snapshot, traces))
    if not (present or holding or lake.removals):
        raise _unknown(lake, traces)
    for branch in sorted({*lake.repo.list_branches()} - {BRANCH}):
        if _holds(lake, lake.repo.lookup_branch(branch), traces):
            raise RunError(
                f"the branch {branch} contains the patient",
                expected="only tags, and the branch main",
                where=lake.url,
                todo=f"Delete it if it is not needed: lake.repo.delete_branch({branch!r}).",
            )
    origin = origin_of(lake.root)
    if origin is not None:
        todo = "Run `qmri-lake forget` on it too."
        source = Copy(origin.lake, "the source of this lake may contain the patient", todo)
        copies = (source, *copies)
    planned = Forgetting(
        url=lake.url,
        patient=traces.patient,
        exams=tuple(lake.exams["exam"].iloc[present.rows]),
        visits=present.visits,
        mentions=present.mentions,
        size=stored_size(lake.root, present.rows),
        commits=_count_expired(lake, holding, bool(present)),
        tags=holding,
        delete_tags=delete_tags,
        kept_tags=tuple(name for name in tags if name not in holding),
        removals=lake.removals,
        copies=copies,
        search=None,
    )
    return planned, present


def _holds(lake: Snapshot, snapshot: str, traces: PatientTraces) -> bool:
    """Return whether a commit contains the patient, in its content or in its message."""
    info = lake.repo.lookup_snapshot(snapshot)
    if traces.in_value([info.message, dict(info.metadata)]):
        return True
    try:
        root = open_root(lake.repo.readonly_session(snapshot_id=snapshot).store)
    except FileNotFoundError:  # the commit that created the repository has no group
        return False
    return bool(find_patient(root, traces))


def _unknown(lake: Snapshot, traces: PatientTraces) -> NotFoundError:
    """Return the error of an unknown patient. It does not reveal numbers of other patients."""
    digits = {len(str(number)) for number in lake.patients.tolist()}
    length = len(str(traces.patient))
    hint = ""
    if digits and length not in digits:
        expected = " or ".join(map(str, sorted(digits)))
        hint = f"Did you mean a number with {expected} digits? This one has {length}."
    return NotFoundError(
        f"no patient {traces.patient}, and no patient was ever removed",
        expected="the number of a patient of this lake",
        where=lake.url,
        todo=hint or "Check the number.",
    )


def _count_expired(lake: Snapshot, deleted: Sequence[str], commits: bool) -> int:
    """Return how many commits of the branch and of the tags will expire."""
    repo = lake.reopened()
    history = [info.id for info in repo.ancestry(branch=BRANCH)]
    seen, kept = set(history), {history[-1]}
    if not commits:
        before = unfinished_removal(lake)
        seen -= set(history if before is None else history[: history.index(before) + 1])
    for tag in repo.list_tags():
        seen |= {info.id for info in repo.ancestry(tag=tag)}
        if tag not in deleted:
            kept.add(repo.lookup_tag(tag))
    return len(seen - kept)


def unfinished_removal(lake: Snapshot) -> str | None:
    """Return the newest commit that removed a patient if earlier commits have not expired."""
    history = list(lake.reopened().ancestry(branch=BRANCH))
    for place, info in enumerate(history):
        if info.metadata.get("step") == STEP:
            return str(info.id) if place < len(history) - 2 else None
    return None


def _complete(lake: Snapshot) -> None:
    """Expire all commits before the newest removal, and delete objects that no commit needs.

    A local lake has no other writer. On an object store, younger objects may belong to a writer
    that has not committed yet; a writer that began before the removal can't commit any more.
    """
    written = [
        info.written_at
        for info in lake.reopened().ancestry(branch=BRANCH)
        if info.metadata.get("step") == STEP
    ]
    limit = written[0] if written else None  # None: pruned, with all commits before it
    now = datetime.now(UTC)
    unneeded = now if is_local(lake.location) else limit or now - timedelta(days=1)
    expire_commits(lake, limit, unneeded)
    for path in (*partial_files(lake.location, now), *earlier_heads(lake.location)):
        path.unlink(missing_ok=True)


def _refuse_traces(lake: Snapshot, traces: PatientTraces, done: Forgetting) -> None:
    """Raise an error if a commit or an object still contains data of the patient."""
    found = list(done.search.found) if done.search is not None else []
    for snapshot, name in _kept_commits(lake).items():
        if _holds(lake, snapshot, traces):
            found.append(f"commit {snapshot} of {name}")
    if found:
        raise RunError(
            f"{counted(len(found), 'object')} still {'contains' if len(found) == 1 else 'contain'} "
            f"the number of the patient or a key of an exam: {', '.join(found[:5])}",
            expected="no trace of the patient",
            where=lake.url,
            todo="Stop other writers, then repeat the command. Delete files that no writer of this "
            "package wrote.",
        )


def _kept_commits(lake: Snapshot) -> dict[str, str]:
    """Return the branch or tag of each commit that can be opened, by the id of the commit."""
    repo = lake.reopened()
    refs = {f"tag {name}": {"tag": name} for name in repo.list_tags()}
    refs |= {f"branch {name}": {"branch": name} for name in repo.list_branches()}
    return {info.id: name for name, ref in refs.items() for info in repo.ancestry(**ref)}
