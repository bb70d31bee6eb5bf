"""Methods of a lake for its history and maintenance: commits, tags, validation, pruning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import pandas as pd

from qmri_lake.errors import UnknownRefError
from qmri_lake.lake.history import list_commits, list_runs
from qmri_lake.store.file_checksums import record_files, rewriting_files
from qmri_lake.store.repository import translated_errors, upgrade_repository
from qmri_lake.store.snapshot import Snapshot

if TYPE_CHECKING:
    from qmri_lake.lake.deep_validation import Faults, Progress
    from qmri_lake.lake.doctor import Diagnosis
    from qmri_lake.lake.forgetting import Forgetting
    from qmri_lake.lake.pruning import Pruning

__all__ = ["MaintainedLake"]


class MaintainedLake(Snapshot):
    """A lake at one commit, with its history, tags, validation, pruning and repair."""

    def runs(self) -> pd.DataFrame:
        """List all runs by number, with their step, parameters, code, input snapshot and counts."""
        return list_runs(self.root)

    def history(self, limit: int | None = None) -> pd.DataFrame:
        """List commits, newest first, with their snapshot id, time, message and tags."""
        return list_commits(self, limit)

    def tags(self) -> list[str]:
        """Return the names of the tags."""
        return sorted(self.repo.list_tags())

    def tag(self, name: str) -> str:
        """Add a permanent tag to the current snapshot, and return the id of the snapshot."""
        self._refuse_if_read_only()
        if name in self.repo.list_tags():
            raise UnknownRefError(
                f"tag {name!r} exists, at {self.repo.lookup_tag(name)}",
                expected="a new name",
                where=self.url,
                todo="Choose another name: a tag cannot be moved.",
            )
        with translated_errors(self.url):
            self.repo.create_tag(name, self.snapshot)
        record_files(self.location)
        return self.snapshot

    def upgrade(self) -> Self:
        """Convert the lake permanently to the newest storage format of the installed Icechunk.

        Exams, history, tags and snapshot ids are kept; arrays are not written again. An older
        Icechunk cannot read the lake afterwards, and the conversion cannot be undone. No other
        process may read the lake during the conversion. A lake in the newest format is not changed.

        Raises
        ------
        RunError
            If the installed Icechunk supports format 1 only.
        """
        with self.writing(), rewriting_files(self.location):
            self.repo = upgrade_repository(self.repo, self.url)
            self.refresh()
        return self

    def prune(
        self, *, older_than: timedelta = timedelta(days=30), dry_run: bool = False
    ) -> Pruning:
        """Remove old commits, and the values that only they contain. This cannot be undone.

        The newest commit, the commits of tags, and younger commits are kept unchanged. Records of
        runs are kept, but the commits that they name as inputs can no longer be opened if they were
        removed. No process may read an old commit meanwhile.

        Parameters
        ----------
        older_than : timedelta
            Minimum age of the removed commits: at least one day on an object store.
        dry_run : bool
            Return what would be removed, and remove nothing.

        Returns
        -------
        Pruning
            The removed commits and the number of bytes. Print it to see them.

        Raises
        ------
        LakeLockedError
            If another writer holds the lock.
        RunError
            If `older_than` is too short.
        """
        from qmri_lake.lake.pruning import prune_lake

        return prune_lake(self, older_than, dry_run=dry_run)

    def forget(
        self,
        patient: int | str,
        *,
        delete_tags: bool = False,
        derived: Sequence[str] = (),
        models: Sequence[str | os.PathLike[str]] = (),
        dry_run: bool = False,
    ) -> Forgetting:
        """Remove all data of a patient, also from the history. This cannot be undone.

        Exams, clinical values, visits, states, messages and predictions are removed. In messages of
        other exams, records of runs and attributes, the number of the patient and the exam keys are
        replaced by ``(removed)``. All other values are kept unchanged. The last exams of the lake
        move to the rows of the removed ones. All earlier commits expire; tags whose commits do not
        contain the patient are kept. Then every object of the lake is read to check that nothing is
        left. If the process is killed, call the method again to complete the removal.

        Parameters
        ----------
        patient : int or str
            Number of the patient, or identifier of the study such as ``"P007"``.
        delete_tags : bool
            Delete the tags whose commits contain the patient. Default: such a tag is an error.
        derived : sequence of str
            Derived lakes to look for the patient in. They are not changed.
        models : sequence of path
            Folders of trained models, to look for the patient in their lists of exams. They are
            not changed.
        dry_run : bool
            Return what would be removed, and remove nothing.

        Returns
        -------
        Forgetting
            What was removed, the search for traces, and the examined lakes and models. Print it to
            see it. If nothing of the patient is in the lake, but patients were removed before, an
            interrupted removal is completed and the search is repeated.

        Raises
        ------
        NotFoundError
            If the patient is not in the lake and no patient was removed before.
        LakeLockedError
            If another writer holds the lock.
        RunError
            If a tag or a branch contains the patient, or if an object still does afterwards. The
            message names the object.
        """
        from qmri_lake.lake.forgetting import forget_patient

        return forget_patient(
            self,
            patient,
            delete_tags=delete_tags,
            derived=derived,
            models=models,
            dry_run=dry_run,
        )

    def validate(
        self,
        *,
        deep: bool = False,
        sample: float | None = None,
        seed: int = 0,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> Faults:
        """List all faults of the lake; an empty list means that there are none.

        Parameters
        ----------
        deep : bool
            Also read every volume, and check Icechunk's files against their checksums. By default,
            only small arrays are checked.
        sample : float, optional
            Read the volumes of a random sample only: a number of exams, or a share below 1. Implies
            `deep`.
        seed : int
            Seed of the sample. With the same seed, a larger sample contains the smaller one.
        resume : bool
            Continue an interrupted deep validation of this snapshot with this seed. Its state is in
            the user's cache folder; nothing is written into the lake.
        progress : callable, optional
            Called with the number of checked exams and the number to check.

        Returns
        -------
        Faults
            A list of lines. Its ``coverage`` states how many exams were read and, for a sample, the
            largest share of faulty exams at 95 % confidence.

        Raises
        ------
        RunError
            If `sample` is neither a number of exams nor a share, or if `resume` is given without
            `deep` or `sample`.
        """
        from qmri_lake.lake.deep_validation import validate_lake

        return validate_lake(
            self, deep=deep, sample=sample, seed=seed, resume=resume, progress=progress
        )

    def doctor(
        self, *, repair: bool = False, older_than: timedelta = timedelta(days=1)
    ) -> Diagnosis:
        """Find damaged files, interrupted runs, failed exams and files left by killed writers.

        Parameters
        ----------
        repair : bool
            Remove the record of a writer that has ended, and files that no snapshot refers to.
            Committed data is not changed, and no snapshot expires.
        older_than : timedelta
            Minimum age of files to report or remove. Younger files may belong to a run that has not
            committed yet.

        Returns
        -------
        Diagnosis
            Print it, or use its ``lines()``, which contain one finding each.
        """
        from qmri_lake.lake.doctor import diagnose

        return diagnose(self, repair=repair, older_than=older_than)

    def identifiers(
        self,
        *,
        models: Sequence[str | os.PathLike[str]] = (),
        catalogs: Sequence[str | os.PathLike[str]] = (),
    ) -> pd.DataFrame:
        """List the places where this lake stores identifying values, without the values.

        Arrays are listed by the declared privacy kind of their variable. Texts (messages, records
        of runs, lineage, attributes, commits) are searched for patient numbers of the lake, exam
        keys, UIDs, dates, paths and the name of this host.

        Parameters
        ----------
        models : sequence of path
            Folders of models, whose text files are searched too: cards, splits, logs.
        catalogs : sequence of path
            Catalogs of lakes, which may contain paths.

        Returns
        -------
        DataFrame
            Columns place, kind, count and "needed for".

        Raises
        ------
        NotFoundError
            If there is no such folder or file.
        """
        from qmri_lake.lake.identifiers import find_identifiers

        return find_identifiers(self, models, catalogs)
