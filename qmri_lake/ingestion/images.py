"""Ingest a delivery: the images and clinical tables that are not in the lake yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import icechunk
import numpy as np
import pandas as pd

from qmri_lake.core.text import counted
from qmri_lake.errors import (
    InputError,
    NotFoundError,
    Problem,
    Reason,
    RunError,
    problem_table,
)
from qmri_lake.execution.run import Listener
from qmri_lake.execution.step import load_steps
from qmri_lake.ingestion.clinical import store_visits
from qmri_lake.ingestion.delivery import Delivery, Found
from qmri_lake.ingestion.known_series import check_replaced, compare_series
from qmri_lake.ingestion.series_tasks import write_series
from qmri_lake.ingestion.tables import refuse_own_tables
from qmri_lake.lake.lake import Lake, create_lake, existing_lake
from qmri_lake.lake.study_ids import store_study_ids
from qmri_lake.lake.synthetic_exams import mark_synthetic
from qmri_lake.masks.content import Form
from qmri_lake.oai.table_names import find_tables
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit, translated_errors
from qmri_lake.store.status import declare_status
from qmri_lake.store.transaction import declare, exam_count, group_sizes

if TYPE_CHECKING:
    from qmri_lake.ingestion.delivered import DeliveredSeries
    from qmri_lake.oai.inventory import Repeat

__all__ = ["IngestResult", "ingest"]


@dataclass(frozen=True)
class IngestResult:
    """Result of an ingest: number of added series, and problems."""

    lake: Lake
    added: Mapping[str, int]
    """Number of series written, by group."""
    present: int
    """Number of series that were already in the lake."""
    visits: int
    """Number of rows of the clinical tables; 0 if the source has no tables."""
    masks: int
    """Number of exams whose masks were imported."""
    problems: tuple[Problem, ...]
    repeats: tuple[Repeat, ...]
    """Earlier scans that were not used, because a later scan of the knee and visit exists."""
    ignored: Mapping[str, int]
    """Number of ignored files and series (localizers, reformats ...) by kind."""
    notes: tuple[str, ...] = ()
    """Notes on series that were joined, and on values that were assumed or carried forward."""
    replaced: int = 0
    """Stored series that were replaced; the earlier ones stay in the history of the lake."""

    def table(self) -> pd.DataFrame:
        """Return the problems as a table: reason, where, found, expected, todo, exam."""
        return problem_table(self.problems)

    def __str__(self) -> str:
        parts = [f"{n} {group} series" for group, n in self.added.items() if n]
        parts += [f"masks of {counted(self.masks, 'exam')}"] if self.masks else []
        parts += [counted(self.visits, "clinical row")] if self.visits else []
        text = f"added {', '.join(parts) or 'nothing'}"
        text += f"; replaced {self.replaced} series" if self.replaced else ""
        text += f"; {self.present} series already present" if self.present else ""
        text += f"; {counted(len(self.repeats), 'repeat')} left out" if self.repeats else ""
        return f"{text}; {counted(len(self.problems), 'problem')}"


def ingest(
    source: str | os.PathLike[str],
    lake: Lake | str | os.PathLike[str],
    *,
    masks: str | os.PathLike[str] | None = None,
    patient: int | str | None = None,
    timepoint: int | None = None,
    knee: str | None = None,
    group: str | None = None,
    series: str | Iterable[str] | None = None,
    pattern: str | None = None,
    files: str | os.PathLike[str] | None = None,
    bids: bool | None = None,
    visits: Mapping[str, int] | None = None,
    form: Form | None = None,
    any_position: bool = False,
    replace: str | Iterable[str] = (),
    repair: bool = False,
    profile: str | None = None,
    cluster: object = None,
    commit_every: int = 16,
    progress: Callable[[int, str], None] | None = None,
    listeners: Sequence[Listener] = (),
) -> IngestResult:
    """Ingest a delivery of images and clinical tables into a lake.

    Images are DICOM series, or NIfTI, NRRD, MetaImage or PAR/REC files whose exams are stated by
    `pattern`, by `files`, or by the names of a BIDS dataset.

    A second ingest adds only new series, unless `replace` or `repair` is given. An interrupted
    ingest resumes from its last commit when it is started again.

    Parameters
    ----------
    source : path
        A folder, an archive (tar, ``.tar.gz`` or zip), or a folder of archives; see
        `qmri_lake.oai.inventory`.
    lake : Lake or URL
        If there is no lake at the URL, a lake is created.
    masks : path, optional
        Folder of ``<exam key>.npz`` files with labels on both grids, like those of the synthetic
        OAI; see `qmri_lake.ingestion.npz_masks`.
    patient, timepoint, knee : optional
        Exam of series whose headers do not identify it. A header that contradicts these values is
        reported as a problem. A patient may be a text such as ``"P007"``; see
        `qmri_lake.lake.study_ids`. With `pattern`, the parts that it does not contain.
    group : {"dess", "msme", "t1rho", "t2star", "qdess"}, optional
        For series that neither name nor acquisition identifies; a group of your own is declared
        with `qmri_lake.schema.builtin.declare_series`. Default: such a series is listed as
        ``unknown_sequence``.
    series : str or iterable of str, optional
        The series to use, by SeriesInstanceUID, SeriesDescription or folder. All others are
        ignored.
    pattern : str, optional
        Pattern of the paths of image files other than DICOM, relative to the folder, such as
        ``"{patient}_{timepoint}m_{knee}_dess.nii.gz"``; see
        `qmri_lake.ingestion.file_pattern.FilePattern`. Give the group with ``{group}`` or `group`.
        Clinical tables are then not read.
    files : path, optional
        CSV list of image files instead of a pattern, with the columns file, patient, timepoint,
        knee, and optionally group, echo and time_ms. Paths are relative to `source`.
    bids : bool, optional
        Whether the source is a BIDS dataset. Default: whether it has images in
        ``sub-*/[ses-*/]anat``.
    visits : mapping of str to int, optional
        Months by the name of a visit, for ``{visit}`` of a pattern and for sessions of BIDS.
    form : {"sform", "qform"}, optional
        Affine to use of NIfTI files whose sform and qform differ. Default: such a file is listed.
    any_position : bool
        Whether to use image files whose position is on the side of the other knee.
    replace : str or iterable of str
        Keys of exams whose stored series are replaced by the delivered ones. Earlier commits keep
        the old series; results that were computed from them are stale.
    repair : bool
        Whether to replace every stored series of which the delivery has a more complete copy.
    profile : {"oai"}, optional
        Array sizes of a new lake. Default: the sizes of the largest series of this delivery.
    cluster : optional
        As in `Lake.run`. One task reads and decodes one exam.
    progress : callable, optional
        Called with the number of files read and the folder while headers are read.
    listeners : optional
        As in `Lake.run`.

    Returns
    -------
    IngestResult
        Its ``problems`` list each series, table or cell that could not be used, with the file, the
        reason and what to do. Everything else has been ingested.
    """
    if masks is not None and not Path(masks).is_dir():
        raise NotFoundError(
            "no such folder", expected="a folder of <exam key>.npz files", where=str(masks)
        )
    load_steps()  # installed steps may declare kinds of series
    delivery = Delivery(
        source,
        patient,
        timepoint,
        knee,
        group,
        series,
        pattern,
        files,
        bids,
        visits,
        form,
        any_position,
    )
    delivery.check()
    if Path(source).is_file() and not delivery.is_named:
        refuse_own_tables(Path(source))
    exams = [replace] if isinstance(replace, str) else [*replace]
    found: Found | None = None
    target = lake if isinstance(lake, Lake) else existing_lake(os.fspath(lake))
    if target is None:
        # The inventory comes first, so that an unreadable source does not leave an empty lake.
        check_replaced((), exams)
        found = delivery.take_inventory(None, progress)
        _check_not_empty(source, found)
        target = create_lake(os.fspath(lake), profile=profile)  # type: ignore[arg-type]
    else:
        _check_target(target, profile)
        check_replaced(target.exams["exam"], exams)
    # The lake is locked before the headers are read, which takes an hour for a full delivery.
    with target.writing():
        found = found or delivery.take_inventory(target, progress)
        if not (found.series or found.problems or masks):
            refuse_own_tables(Path(source))
        problems = list(found.problems)
        _fix_sizes(target, found.series)
        compared = compare_series(target, found.series, exams, repair=repair)
        problems += compared.problems
        written = write_series(
            target,
            compared,
            cluster=cluster,
            commit_every=commit_every,
            listeners=listeners,
            study_ids=found.study_ids,
        )
        problems += written.problems
        # Series that were already present may be of a lake without marks.
        mark_synthetic(target, [item.exam for item in found.series if item.synthetic])
        store_study_ids(target, found.study_ids)
        offers = sum(problem.reason == Reason.MORE_COMPLETE for problem in problems)
        rows, notes = 0, tuple[str, ...]()
        if Path(source).is_dir() and not delivery.is_named:
            rows, notes, table_problems = store_visits(target, Path(source), found.dates)
            problems += table_problems
        imported = 0
        if masks is not None:
            from qmri_lake.ingestion.npz_masks import import_masks

            imported, mask_problems = import_masks(target, Path(masks), listeners=listeners)
            problems += mask_problems
    return IngestResult(
        lake=target,
        added=written.added,
        present=compared.present + written.unchanged,
        visits=rows,
        masks=imported,
        problems=tuple(problems),
        repeats=found.repeats,
        ignored=found.ignored,
        notes=(*found.notes, *_replacement_notes(offers, written.replaced), *notes),
        replaced=written.replaced,
    )


def _replacement_notes(offers: int, replaced: int) -> list[str]:
    notes = []
    if offers:
        verb = "is" if offers == 1 else "are"
        notes.append(
            f"{offers} series of this delivery {verb} more complete than what is stored; "
            "--replace EXAM or --repair replaces the stored ones"
        )
    if replaced:
        notes.append(
            "results computed from replaced series are stale: run their steps again; the old "
            "series stay in the history of the lake"
        )
    return notes


def _check_not_empty(source: str | os.PathLike[str], found: Found) -> None:
    """Raise an error if the source has nothing to ingest."""
    if found.series or found.problems:
        return
    refuse_own_tables(Path(source))
    if find_tables(Path(source)).known:
        return
    other = ", ".join(f"{n} {kind}" for kind, n in found.ignored.items())
    raise InputError(
        f"no series and no table{f' ({other})' if other else ''}",
        expected="DESS, multi-echo or other declared DICOM series, or clinical tables",
        where=os.fspath(source),
        todo="Give the folder that contains the delivery.",
        reason=Reason.UNREADABLE_FILE,
    )


def _check_target(lake: Lake, profile: str | None) -> None:
    """Raise an error if a delivery with this profile cannot be ingested into an existing lake."""
    if profile not in (None, lake.profile):
        raise RunError(
            f"the lake has {f'profile {lake.profile!r}' if lake.profile else 'no profile'}",
            expected=f"profile {profile!r}",
            where=lake.url,
            todo="Omit the profile, or ingest into a new lake: array sizes are fixed.",
        )
    if lake.origin is not None:
        raise RunError(
            f"the lake was derived from {lake.origin.lake or 'another one'}",
            expected="a lake of deliveries",
            where=lake.url,
            todo="Ingest into the source lake, and derive another lake.",
        )


def _fix_sizes(lake: Lake, series: Iterable[DeliveredSeries]) -> None:
    """Declare the image groups of this delivery, large enough for its largest series."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for item in series:
        shapes.setdefault(item.group, []).append(item.shape)
    missing = [group for group in shapes if not group_sizes(lake.root, group)]
    if not missing:
        return

    def build(session: icechunk.Session) -> None:
        root = open_root(session.store, "r+")
        for group in missing:
            largest = tuple(int(n) for n in np.max(shapes[group], axis=0))
            sizes = GROUPS.profile_sizes(lake.profile, group) or sizes_of(group, largest)
            declare(root, REGISTRY.variables_of(f"ingest_{group}"), sizes)
            declare_status(root, f"ingest_{group}", exam_count(root))

    with translated_errors(lake.url):
        commit(lake.repo, build, f"Declare {' and '.join(missing)}")
    lake.refresh()
