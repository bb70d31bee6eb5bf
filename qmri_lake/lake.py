"""The lake: open it, choose exams, load them lazily, run steps, go back in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import icechunk
import numpy as np
import pandas as pd
import xarray as xr

from qmri_lake import __version__
from qmri_lake.cohort import Cohort, refuse_other_lake
from qmri_lake.columns import column_names, read_column
from qmri_lake.errors import (
    LakeLockedError,
    NotFoundError,
    RunError,
    UnknownRefError,
)
from qmri_lake.index import KEYS
from qmri_lake.ledger import count_states, list_commits, list_failures, list_runs
from qmri_lake.query import unknown_column
from qmri_lake.reading import load_group, load_groups, load_tree
from qmri_lake.status import status_steps
from qmri_lake.storage import (
    BRANCH,
    Node,
    commit,
    create_repository,
    open_repository,
    open_root,
    readonly_session,
    resolve,
    translated_errors,
    writer_lock,
)
from qmri_lake.variables import Variable
from qmri_lake.writing import check_format, initialise

if TYPE_CHECKING:
    from qmri_lake.doctor import Diagnosis
    from qmri_lake.origin import Origin
    from qmri_lake.plan import Plan
    from qmri_lake.run import Listener, RunResult
    from qmri_lake.steps import Step

__all__ = ["Lake", "create_lake", "open_lake"]

PROFILES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "oai": {
        "dess": {"slice": 176, "row": 384, "column": 384},
        "msme": {"echo": 7, "slice": 40, "row": 384, "column": 384},
    }
}
"""Array sizes by name of a profile; without one, those of the first ingest's largest series."""

Mode = Literal["r", "r+"]

_FEW = 64
"""Exams whose keys are read one by one; more are cheaper as whole columns, which are kept."""


def open_lake(url: str, *, ref: str | None = None, mode: Mode = "r+") -> Lake:
    """Open an existing lake; nothing but metadata is read.

    Parameters
    ----------
    url : str
        A folder, or ``s3://bucket/prefix``, ``gs://...``, ``az://account@container/prefix``.
    ref : str, optional
        A tag, a branch or a snapshot id: the lake as it was. Default: the newest commit.
    mode : {"r+", "r"}
        ``"r"`` refuses to write and needs no permission to; a `ref` is always read-only.

    Raises
    ------
    NotALakeError
        There is no lake, or one that is newer than this package.
    UnknownRefError
        No such tag, branch or snapshot, with those that there are.
    """
    return Lake(
        str(url), open_repository(str(url)), ref, "r" if ref not in (None, BRANCH) else mode
    )


def create_lake(url: str, *, profile: str | None = None) -> Lake:
    """Create an empty lake in a new folder or at an empty prefix.

    Parameters
    ----------
    url : str
        As in `open_lake`.
    profile : {"oai"}, optional
        Fixes the array sizes (dess 176 x 384 x 384, msme 7 x 40 x 384 x 384). Without it, the
        first ingest's largest series of each kind does.
    """
    if profile is not None and profile not in PROFILES:
        raise RunError(f"profile {profile!r}", expected=f"one of {', '.join(PROFILES)}")
    repo = create_repository(str(url))
    with translated_errors(str(url)):
        commit(
            repo, lambda session: initialise(session, __version__, profile), "Create the lake",
            {"qmri_lake": __version__},
        )  # fmt: skip
    return Lake(str(url), repo, None, "r+")


class Lake:
    """Exams of many knees as arrays; made by `open_lake` or `create_lake`.

    A lake stays at the snapshot that was newest when it was opened, and moves on with
    `refresh` or after a run of its own.
    """

    def __init__(self, url: str, repo: icechunk.Repository, ref: str | None, mode: Mode) -> None:
        self.url, self.repo, self.ref, self.mode = url, repo, ref, mode
        self.location = resolve(url)
        """Where `url`, as its user spelled it, pointed to when the lake was opened."""
        self.refresh()

    # -- where it is ---------------------------------------------------------------------------

    def refresh(self) -> Lake:
        """Move to the newest commit (of the branch that was opened)."""
        session = readonly_session(self.repo, self.ref, self.url)
        self.snapshot: str = session.snapshot_id
        self.store: Any = session.store
        for cached in ("root", "exams", "patients", "_column_cache"):
            self.__dict__.pop(cached, None)
        return self

    @cached_property
    def root(self) -> Node:
        """The root group, read-only."""
        try:
            root = open_root(self.store)
        except FileNotFoundError:
            root = None
        return check_format(root, self.url)

    @cached_property
    def exams(self) -> pd.DataFrame:
        """Keys of all exams, in the lake's order: exam, patient, timepoint, knee."""
        return pd.DataFrame({name: self.root[name][:] for name in ("exam", *KEYS)})

    @cached_property
    def patients(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Patient number of each exam: one array, where `exams` reads and decodes four."""
        read = "exams" in self.__dict__
        return self.exams["patient"].to_numpy() if read else np.asarray(self.root["patient"][:])

    def keys_at(self, rows: np.ndarray[Any, np.dtype[np.intp]]) -> pd.DataFrame:
        """Return the keys of the exams at `rows`; for a few of them, only theirs are read."""
        if len(rows) > _FEW or "exams" in self.__dict__:
            return self.exams.iloc[rows]
        return pd.DataFrame({name: self._at(name, rows) for name in ("exam", *KEYS)}, index=rows)

    def _at(self, name: str, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Any:
        return self.root[name].oindex[rows] if rows.size else self.root[name][:0]

    @property
    def profile(self) -> str | None:
        """The profile that fixed the array sizes, if any."""
        return self.root.attrs["qmri_lake"]["profile"] or None

    def groups(self) -> list[str]:
        """Names of the groups with data, such as dess, msme, clinical."""
        order = ["clinical", "visit", "dess", "msme", "sphere", "region", "prediction"]
        found = [name for name in self.root.group_keys() if name != "status"]
        return sorted(found, key=lambda n: (order.index(n) if n in order else len(order), n))

    def variables(self) -> dict[str, Variable]:
        """Declarations of the arrays in the lake, as stored with them, by ``group/name``."""
        return {
            f"{group}/{name}": Variable.from_array(group, name, array)
            for group in self.groups()
            for name, array in self.root[group].arrays()
            if array.metadata.dimension_names[0] in ("exam", "visit")  # else it is a coordinate
        }

    # -- choosing and loading ------------------------------------------------------------------

    def cohort(self, query: str | None = None) -> Cohort:
        """Choose exams: all of them, or those for which a query is true.

        Parameters
        ----------
        query : str, optional
            Such as ``"knee == 'right' and timepoint == 0 and kl >= 2"``, over the keys and the
            columns of `clinical`; see `qmri_lake.query`.
        """
        everything = Cohort.everything(self)
        return everything.where(query) if query else everything

    def select(
        self,
        *,
        patient: int | None = None,
        timepoint: int | None = None,
        knee: str | None = None,
        exam: str | None = None,
    ) -> Cohort:
        """Choose exams by their keys."""
        keys = {"patient": patient, "timepoint": timepoint, "knee": knee, "exam": exam}
        return Cohort.of_keys(self, {n: value for n, value in keys.items() if value is not None})

    def load(
        self,
        group: str | Sequence[str],
        cohort: Cohort | str | None = None,
        *,
        patient: int | None = None,
        timepoint: int | None = None,
        knee: str | None = None,
        exam: str | None = None,
    ) -> xr.Dataset:
        """Open exams of one group, or of several joined, as a lazy Dataset.

        Parameters
        ----------
        group : str or sequence of str
            Such as ``"msme"`` or ``["sphere", "clinical"]``.
        cohort : Cohort or query, optional
            Which exams; default all.
        patient, timepoint, knee, exam : optional
            Choose by key instead.

        Returns
        -------
        Dataset
            Dims start with ``exam``, one exam a Dask block. Images are cropped to the smallest
            box that holds every exam: one exam, or a uniform cohort, comes at its own shape;
            `qmri_lake.inside` masks what lies beyond an exam's own extent.
            ``ds.sel(patient=..., timepoint=..., knee=...)`` works. Group ``visit`` has an axis of
            its own: all visits, or with a cohort those of its patients.

        Raises
        ------
        NotFoundError
            No such group or exam.
        QueryError
            Groups that can't be joined, such as dess and msme, which lie on different grids.
        """
        keys = {"patient": patient, "timepoint": timepoint, "knee": knee, "exam": exam}
        chosen = self._cohort(cohort, **keys)
        if isinstance(group, str):
            return load_group(self, group, chosen)
        return load_groups(self, list(group), chosen)

    def tree(self, cohort: Cohort | str | None = None) -> xr.DataTree:
        """Open all groups as one lazy tree."""
        return load_tree(self, self._cohort(cohort))

    def _cohort(self, cohort: Cohort | str | None = None, **keys: Any) -> Cohort:
        """Return the exams that an argument chooses: a cohort of this lake, a query, or keys."""
        if cohort is None:
            return self.select(**keys)
        if any(value is not None for value in keys.values()):
            raise RunError(
                "a cohort and a key", expected="one of them", where="load",
                todo="Narrow the cohort by a query.",
            )  # fmt: skip
        if isinstance(cohort, str):
            return self.cohort(cohort)
        return refuse_other_lake(cohort, self)

    # -- columns for queries -------------------------------------------------------------------

    def column_names(self) -> list[str]:
        """Names that a query may use."""
        return column_names(self.root)

    def columns(self, names: Sequence[str]) -> dict[str, pd.Series[Any]]:
        """Read columns by name, flags as words, with nullable types."""
        known = self.column_names()
        for name in names:
            if name not in known:
                raise unknown_column(name, dict.fromkeys(known))
            if name not in self._column_cache:
                self._column_cache[name] = read_column(self.root, self.exams, name)
        return {name: self._column_cache[name] for name in names}

    @cached_property
    def _column_cache(self) -> dict[str, pd.Series[Any]]:
        return {}

    # -- steps ---------------------------------------------------------------------------------

    def plan(
        self,
        step: str | Step,
        cohort: Cohort | str | None = None,
        *,
        variant: str = "",
        retry_failed: bool = False,
        **parameters: Any,
    ) -> Plan:
        """Say what a run would do, without doing it."""
        from qmri_lake.plan import make_plan
        from qmri_lake.steps import find_step

        return make_plan(
            self, find_step(step), self._cohort(cohort),
            variant=variant, retry_failed=retry_failed, parameters=parameters,
        )  # fmt: skip

    def run(
        self,
        step: str | Step,
        cohort: Cohort | str | None = None,
        *,
        cluster: Any = None,
        variant: str = "",
        retry_failed: bool = False,
        commit_every: int = 32,
        commit_seconds: float = 30.0,
        listeners: Sequence[Listener] = (),
        **parameters: Any,
    ) -> RunResult:
        """Compute a step for the exams that need it, and commit as results arrive.

        What is done with the same parameters is skipped, so a run that was stopped goes on. An
        exam that fails keeps its error in the status, and the others finish.

        Parameters
        ----------
        step : str or Step
            ``"t2"``, or a step of your own (`qmri_lake.step`).
        cohort : Cohort or query, optional
            Which exams; default all.
        cluster : optional
            None: this process, one exam after another. ``"auto"``, ``"cpu"``, ``"gpu"``, a
            scheduler's address, or a Dask client: see `qmri_lake.cluster`.
        variant : str
            Write a second version of the product beside the first: ``t2__epg``.
        retry_failed : bool
            Try again what failed before with the same parameters.
        commit_every, commit_seconds
            Commit after so many exams, or so many seconds.
        listeners : sequence of callables
            Called with each event of the run: see `qmri_lake.run`.
        **parameters
            The step's own parameters.

        Raises
        ------
        LakeLockedError
            Another process is writing to this lake.
        RunError
            Unknown parameter, or an exam that can't fit into memory.
        """
        from qmri_lake.compute import memory_per_task, running
        from qmri_lake.plan import check_memory
        from qmri_lake.run import run_step

        with self.writing():
            fresh = self._cohort(cohort)
            plan = self.plan(step, fresh, variant=variant, retry_failed=retry_failed, **parameters)
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
        cohort: Cohort | str | None,
        products: Sequence[str],
        *,
        cluster: Any = None,
        commit_every: int = 32,
        commit_seconds: float = 30.0,
        listeners: Sequence[Listener] = (),
    ) -> Lake:
        """Make a lake of some exams and products of this one, for a study of its own.

        Arrays are the same, values and chunks; states and runs come with their products, so that
        `status`, `failures`, `runs` and what is stale are known there too. This lake, at the
        snapshot at which it is open, is not changed. One that was stopped goes on when it is
        derived again, from the snapshot from which it was begun.

        Parameters
        ----------
        url : str
            The new lake, as in `open_lake`.
        cohort : Cohort or query, or None for all
            Its exams, in this order. Its flow is kept as lineage; columns of its own, outcomes and
            matched sets, join group ``clinical``.
        products : sequence of str
            Groups, such as ``"clinical"``, and variables, such as ``"sphere/map"`` or
            ``"msme/t2__epg"``: with one goes all that its step wrote, and what its group needs to
            be read (affine, extent, echo times). Of ``visit``: all visits of the patients.
        cluster, commit_every, commit_seconds, listeners
            As in `run`: one exam is one task.

        Returns
        -------
        Lake
            Open for writing; its `origin` says where it comes from.

        Raises
        ------
        NotFoundError
            No such product.
        InputError
            No exam, or no product.
        RunError
            Another lake is there, or one that was derived otherwise; exams whose chunks can't be
            read, after all others were copied.

        Examples
        --------
        >>> cases = lake.cohort("timepoint == 0").require("sphere/map")  # doctest: +SKIP
        >>> study = lake.derive("study.lake", cases, ["sphere/map", "clinical"])  # doctest: +SKIP
        """
        from qmri_lake.derive import derive_lake

        return derive_lake(
            self, str(url), self._cohort(cohort), products, cluster=cluster,
            commit_every=commit_every, commit_seconds=commit_seconds, listeners=listeners,
        )  # fmt: skip

    @property
    def origin(self) -> Origin | None:
        """Where a derived lake comes from: source, snapshot, products, flow. None of others."""
        from qmri_lake.origin import origin_of

        return origin_of(self.root)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock, at the newest commit."""
        self._refuse_if_read_only()
        with writer_lock(self.location, self.url):
            self.refresh()
            yield

    def _refuse_if_read_only(self) -> None:
        if self.mode == "r":
            raise LakeLockedError(
                "a lake opened for reading" + (f" at {self.ref!r}" if self.ref else ""),
                expected='mode="r+" and no ref',
                where=self.url,
                todo=f"ql.open_lake({self.url!r}).",
            )

    def status(self, cohort: Cohort | str | None = None) -> pd.DataFrame:
        """Count exams by state: a row for each step, a column for each state."""
        return count_states(self.root, self._cohort(cohort).rows, len(self))

    def failures(self, step: str | None = None) -> pd.DataFrame:
        """List exams that failed, were skipped or flagged: step, state, run and the reason."""
        known = status_steps(self.root)
        if step is not None and step not in known:
            raise NotFoundError(
                f"no status of step {step!r}",
                expected=f"one of {', '.join(known)}",
                where=self.url,
            )
        return list_failures(self.root, self.exams["exam"], [step] if step else known)

    def runs(self) -> pd.DataFrame:
        """List all runs: number, step, parameters, code, the snapshot they read, counts."""
        return list_runs(self.root)

    # -- time ----------------------------------------------------------------------------------

    def history(self, limit: int | None = None) -> pd.DataFrame:
        """List commits, newest first: snapshot, time, message, tags."""
        return list_commits(self.repo, self.snapshot, limit)

    def tags(self) -> list[str]:
        """Names of the tags."""
        return sorted(self.repo.list_tags())

    def tag(self, name: str) -> str:
        """Name the current snapshot, for ever; return its id."""
        self._refuse_if_read_only()
        if name in self.repo.list_tags():
            raise UnknownRefError(
                f"a tag {name!r} already, at {self.repo.lookup_tag(name)}",
                expected="a new name",
                where=self.url,
                todo="Tags never move.",
            )
        with translated_errors(self.url):
            self.repo.create_tag(name, self.snapshot)
        return self.snapshot

    # -- care ----------------------------------------------------------------------------------

    def validate(self, *, deep: bool = False) -> list[str]:
        """Gather all faults of the lake; an empty list is a sound lake.

        Parameters
        ----------
        deep : bool
            Read every volume too, not only the small arrays.
        """
        from qmri_lake.validate import faults

        return list(faults(self, deep=deep))

    def doctor(
        self, *, repair: bool = False, older_than: timedelta = timedelta(days=1)
    ) -> Diagnosis:
        """Look for what killed writers left behind, and for what failed; say what to do.

        Parameters
        ----------
        repair : bool
            Remove the name of a dead writer, and what no snapshot refers to. Nothing that was
            committed is touched, and no snapshot expires.
        older_than : timedelta
            Younger files are left alone: they may belong to a run that is about to commit them.

        Returns
        -------
        Diagnosis
            Print it, or read its ``lines()``: one finding each.
        """
        from qmri_lake.doctor import diagnose

        return diagnose(self, repair=repair, older_than=older_than)

    def __len__(self) -> int:
        return int(self.root["exam"].shape[0])

    def __repr__(self) -> str:
        from qmri_lake.summary import describe

        return describe(self)
