"""The class `Lake`: select exams, load them lazily, run steps, and read earlier versions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from qmri_lake.core.version import __version__
from qmri_lake.errors import NotALakeError, NotFoundError, RunError
from qmri_lake.lake.cohort import Cohort, Exams, check_same_lake
from qmri_lake.lake.exam_list import Ids, Number, Text
from qmri_lake.lake.maintenance import MaintainedLake
from qmri_lake.lake.reading import load_tree
from qmri_lake.lake.status_table import count_states, list_failures
from qmri_lake.lake.tables import add_table
from qmri_lake.schema.groups import PROFILES
from qmri_lake.store.file_checksums import record_files
from qmri_lake.store.location import is_web
from qmri_lake.store.repository import (
    BRANCH,
    commit,
    create_repository,
    is_local,
    local_path,
    open_repository,
    translated_errors,
)
from qmri_lake.store.snapshot import Mode
from qmri_lake.store.status import status_steps
from qmri_lake.store.transaction import initialise

if TYPE_CHECKING:
    from qmri_lake.execution.plan import Plan
    from qmri_lake.execution.run import Listener, RunResult
    from qmri_lake.execution.step import Step
    from qmri_lake.lake.lineage import Origin

__all__ = ["Lake", "create_lake", "existing_lake", "open_lake"]


def open_lake(url: str, *, ref: str | None = None, mode: Mode = "r+") -> Lake:
    """Open an existing lake. Only metadata is read.

    Parameters
    ----------
    url : str
        A folder, or ``s3://bucket/prefix``, ``gs://...``, ``az://account@container/prefix``. Or
        ``https://...``, which is read-only and needs Icechunk 2.
    ref : str, optional
        A tag, a branch or a snapshot id. Default: the newest commit.
    mode : {"r+", "r"}
        ``"r"`` opens the lake read-only and needs no write permission. With a `ref`, the lake is
        always read-only.

    Raises
    ------
    NotALakeError
        If there is no lake, or if its format is newer than this package supports.
    UnknownRefError
        If there is no such tag, branch or snapshot. The message lists the existing tags and
        branches.
    """
    mode = mode if ref in (None, BRANCH) and not is_web(str(url)) else "r"
    return Lake(str(url), open_repository(str(url)), ref, mode)


def create_lake(url: str, *, profile: str | None = None) -> Lake:
    """Create an empty lake in a new folder or at an empty prefix.

    Parameters
    ----------
    url : str
        Path or URL, as in `open_lake`.
    profile : {"oai"}, optional
        Name of a set of array sizes (``"oai"``: dess 176 x 384 x 384, msme 7 x 40 x 384 x 384).
        Default: the largest series of each kind in the first ingest determines the sizes.
    """
    if profile is not None and profile not in PROFILES:
        raise RunError(f"profile = {profile!r}", expected=f"one of {', '.join(PROFILES)}")
    repo = create_repository(str(url))
    with translated_errors(str(url)):
        commit(
            repo,
            lambda session: initialise(session, __version__, profile),
            "Create the lake",
            {"qmri_lake": __version__},
        )
    record_files(str(url))
    return Lake(str(url), repo, None, "r+")


class Lake(MaintainedLake):
    """Exams of many knees as arrays; returned by `open_lake` and `create_lake`.

    A `Lake` reads the snapshot that was newest when it was opened. `refresh`, or a run of this
    object, moves it to the newest commit.
    """

    add_table = add_table

    def cohort(self, query: str | None = None, *, ids: Ids | None = None) -> Cohort:
        """Select all exams, the exams for which a query is true, or the exams of a list.

        Parameters
        ----------
        query : str, optional
            A condition such as ``"knee == 'right' and timepoint == 0 and kl >= 2"``. It can use the
            keys and the columns of `clinical`; see `qmri_lake.lake.query`.
        ids : list, DataFrame or path, optional
            Exam keys, patient numbers, a table of patient, timepoint and knee, or a text file; see
            `qmri_lake.lake.exam_list.read_ids`. The flow counts those absent from the lake.
        """
        chosen = Cohort.everything(self) if ids is None else Cohort.everything(self).of_ids(ids)
        if query is None or (isinstance(query, str) and not query):
            return chosen
        return chosen.where(query)

    def select(
        self,
        *,
        patient: Number = None,
        timepoint: Number = None,
        knee: Text = None,
        exam: Text = None,
    ) -> Cohort:
        """Select exams by their keys. Each key is one value, or several values in any order."""
        keys = {"patient": patient, "timepoint": timepoint, "knee": knee, "exam": exam}
        return Cohort.of_keys(self, {n: value for n, value in keys.items() if value is not None})

    def load(
        self,
        group: str | Sequence[str],
        cohort: Exams = None,
        *,
        patient: Number = None,
        timepoint: Number = None,
        knee: Text = None,
        exam: Text = None,
    ) -> xr.Dataset:
        """Open exams of one group, or of several joined groups, as a lazy Dataset.

        Parameters
        ----------
        group : str or sequence of str
            One group such as ``"msme"``, or several such as ``["sphere", "clinical"]``.
        cohort : Cohort, query or list of exam keys or patients, optional
            Exams to load. Default: all.
        patient, timepoint, knee, exam : optional
            Keys that select exams, instead of `cohort`; see `select`.

        Returns
        -------
        Dataset
            The first dimension is ``exam``, with one exam in each Dask block of volumes; numbers
            and short vectors are in memory. Images are cropped to the smallest box that contains
            every exam; `qmri_lake.inside` masks voxels beyond the extent of an exam.
            ``ds.sel(patient=..., timepoint=..., knee=...)`` selects by key. The group ``visit`` has
            its own axis, with all visits or, for a cohort, the visits of its patients.

        Raises
        ------
        NotFoundError
            If there is no such group or exam.
        QueryError
            If the groups cannot be joined, such as dess and msme, which have different grids.
        """
        keys = {"patient": patient, "timepoint": timepoint, "knee": knee, "exam": exam}
        return self.resolve(cohort, **keys).load(group)

    def tree(self, cohort: Exams = None) -> xr.DataTree:
        """Open all groups as one lazy tree."""
        chosen = self.resolve(cohort)
        return load_tree(self, chosen.rows, all_visits=chosen.is_everything)

    def resolve(self, cohort: Exams = None, **keys: Any) -> Cohort:
        """Return the exams of a cohort, query, list or keys; all exams by default."""
        if cohort is None:
            return self.select(**keys)
        if any(value is not None for value in keys.values()):
            raise RunError(
                "both a cohort and a key",
                expected="either a cohort or keys",
                where="load",
                todo="Restrict the cohort with a query.",
            )
        return self.cohort(cohort) if isinstance(cohort, str) else check_same_lake(cohort, self)

    def plan(
        self,
        step: str | Step,
        cohort: Exams = None,
        *,
        variant: str = "",
        retry_failed: bool = False,
        **parameters: object,
    ) -> Plan:
        """Return the plan of a run without executing it."""
        from qmri_lake.execution.plan import make_plan
        from qmri_lake.execution.step import find_step

        return make_plan(
            self,
            find_step(step),
            self.resolve(cohort).rows,
            variant=variant,
            retry_failed=retry_failed,
            parameters=parameters,
        )

    def run(
        self,
        step: str | Step,
        cohort: Exams = None,
        *,
        cluster: object = None,
        variant: str = "",
        retry_failed: bool = False,
        commit_every: int = 32,
        commit_seconds: float = 30.0,
        listeners: Sequence[Listener] = (),
        **parameters: object,
    ) -> RunResult:
        """Compute a step for the exams that need it, and commit results regularly.

        Exams that are already done with the same parameters are not computed again, so an
        interrupted run resumes. If an exam fails, its error is stored in the status and the other
        exams are computed.

        Parameters
        ----------
        step : str or Step
            Name of a step, such as ``"t2"``, or your own step (`qmri_lake.step`).
        cohort : Cohort, query or list of exam keys or patients, optional
            Exams to compute. Default: all.
        cluster : optional
            None: this process computes one exam after another. Otherwise ``"auto"``, ``"cpu"``,
            ``"gpu"``, the address of a scheduler, or a Dask client: see `qmri_lake.cluster`.
        variant : str
            Name of a second version of the product, which is stored next to the first: with
            ``"epg"``, the step ``t2`` writes ``t2__epg``.
        retry_failed : bool
            Also compute exams that failed before with the same parameters.
        commit_every, commit_seconds
            Commit after this number of exams or this number of seconds.
        listeners : sequence of callables
            Functions that are called with each event of the run: see `qmri_lake.execution.run`.
        **parameters
            Parameters of the step.

        Raises
        ------
        LakeLockedError
            If another process is writing to this lake.
        RunError
            If a parameter is unknown, or if an exam does not fit into memory.
        """
        from qmri_lake.execution.cluster import running
        from qmri_lake.execution.plan import check_memory
        from qmri_lake.execution.run import run_step
        from qmri_lake.execution.workers import memory_per_task

        with self.writing():
            plan = self.plan(step, cohort, variant=variant, retry_failed=retry_failed, **parameters)
            options: dict[str, Any] = {
                "commit_every": commit_every,
                "commit_seconds": commit_seconds,
                "listeners": listeners,
            }
            with running(cluster if len(plan.rows) else None) as client:
                check_memory(plan, memory_per_task(client))
                return run_step(self, plan, cluster=client, **options)

    def derive(
        self,
        url: str,
        cohort: Exams,
        products: Sequence[str],
        *,
        pseudonymise: str | os.PathLike[str] | None = None,
        cluster: object = None,
        commit_every: int = 32,
        commit_seconds: float = 30.0,
        listeners: Sequence[Listener] = (),
    ) -> Lake:
        """Create a lake with some exams and products of this lake, for example for a study.

        Arrays are copied with their values and chunks. States and runs are copied with the
        products, so `status`, `failures` and `runs` list them, and stale results are still
        detected. This lake is not changed. To resume an interrupted derivation, derive again with
        the same arguments. It continues with the snapshot of this lake from which it began.

        Parameters
        ----------
        url : str
            Path or URL of the new lake, as in `open_lake`.
        cohort : Cohort or query, or None for all
            Exams to copy, in this order. The flow is stored as lineage. Outcomes and matched sets
            of the cohort become columns of the group ``clinical``.
        products : sequence of str
            Groups, such as ``"clinical"``, and variables, such as ``"sphere/map"`` or
            ``"msme/t2__epg"``. If a variable is selected, every variable written by the same step
            is also copied, and the affine, extent and echo times of the group. From the group
            ``visit``, all visits of the patients are copied.
        pseudonymise : path, optional
            Key file of the patients' new numbers, which is created or extended. The new lake then
            has new patient numbers, exams sorted by them, shifted dates, and no UIDs, free texts,
            paths or names; see `qmri_lake.lake.deidentification`. Keep the file secret: whoever has
            it can identify the patients. The same file gives the same patient the same number.
        cluster, commit_every, commit_seconds, listeners
            As in `run`. One task copies one exam.

        Returns
        -------
        Lake
            The new lake, open for writing. Its `origin` describes the source.

        Raises
        ------
        NotFoundError
            If there is no such product.
        InputError
            If there is no exam or no product.
        RunError
            If `url` contains another lake or a lake derived with other arguments; or if chunks of
            some exams cannot be read. In the latter case, all other exams are copied first. Or if
            others may read the key file, or if it is inside a lake.
        """
        from qmri_lake.lake.derivation import derive_lake

        def create() -> Lake:
            study = existing_lake(str(url))
            return create_lake(str(url)) if study is None else study

        return derive_lake(
            self,
            create,
            self.resolve(cohort),
            products,
            url=str(url),
            pseudonymise=pseudonymise,
            cluster=cluster,
            commit_every=commit_every,
            commit_seconds=commit_seconds,
            listeners=listeners,
        )

    @property
    def origin(self) -> Origin | None:
        """Source, snapshot, products and flow of a derived lake; None for other lakes."""
        from qmri_lake.lake.lineage import origin_of

        return origin_of(self.root)

    def status(self, cohort: Exams = None) -> pd.DataFrame:
        """Count exams by state, with a row for each step and a column for each state."""
        return count_states(self.root, self.resolve(cohort).rows, len(self))

    def failures(self, step: str | None = None) -> pd.DataFrame:
        """List failed, skipped and flagged exams, with their step, state, run and message."""
        known = status_steps(self.root)
        if step is not None and step not in known:
            raise NotFoundError(
                f"no status of step {step!r}",
                expected=f"one of {', '.join(known)}",
                where=self.url,
            )
        return list_failures(self.root, self.exams["exam"], [step] if step else known)

    def __repr__(self) -> str:
        from qmri_lake.lake.summary import describe

        return describe(self)


def existing_lake(url: str) -> Lake | None:
    """Open the lake at `url`; return None if the folder or prefix is empty."""
    if is_local(url) and not ((folder := local_path(url)).is_dir() and any(folder.iterdir())):
        return None
    try:
        return open_lake(url)
    except NotALakeError:
        if is_local(url):
            raise
        return None  # a prefix of an object store; create_lake checks that it is empty
