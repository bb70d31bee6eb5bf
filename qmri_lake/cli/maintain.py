"""Commands that maintain a lake: tag, catalog, validate, doctor, prune, forget, upgrade."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmri_lake.cli._exit import FINISHED, SOME_FAILED
from qmri_lake.cli._options import LakeArgument, LakeOption, parse_patient

if TYPE_CHECKING:
    from qmri_lake.lake.forgetting import Forgetting

__all__ = ["catalog", "doctor", "forget", "prune", "tag", "upgrade", "validate"]


def tag(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the tag, such as v1.")],
    lake: LakeOption,
) -> None:
    """Give the newest commit of a lake a permanent name."""
    from qmri_lake.cli._progress import console
    from qmri_lake.lake.lake import open_lake

    snapshot = open_lake(lake).tag(name)
    console.print(f"tag {name} refers to snapshot {snapshot}. Read it with --ref {name}")


def catalog(
    out: Annotated[Path, typer.Argument(metavar="OUT.yaml", help="File to write.")],
    lake: LakeOption,
) -> None:
    """Write an intake catalog of a lake, with one entry per group."""
    from qmri_lake.catalog import write_catalog
    from qmri_lake.cli._progress import console

    written = write_catalog(lake, out)
    console.print(f"wrote {written}. Open it with intake.open_catalog({str(written)!r})")


def validate(
    lake: LakeArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every volume, and check all checksums.")
    ] = False,
    sample: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="With --deep, read N random exams, or a share of them such as 0.01."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted --deep with the same seed.")
    ] = False,
) -> int:
    """Check a lake against the declarations of its variables, and list all faults.

    For a sample, the command states the largest share of faulty exams at 95 % confidence. The state
    of --deep is kept in the user's cache folder; nothing is written into the lake.
    """
    from qmri_lake.cli._progress import console, counting
    from qmri_lake.core.text import counted
    from qmri_lake.lake.lake import open_lake
    from qmri_lake.store.file_checksums import unlisted_files

    opened = open_lake(lake, mode="r")
    deep = deep or sample is not None
    bar: AbstractContextManager[Callable[[int, int], None] | None]
    bar = counting("exams") if deep else nullcontext()
    with bar as progress:
        faults = opened.validate(
            deep=deep, sample=sample, seed=seed, resume=resume, progress=progress
        )
    for fault in faults:
        console.print(str(fault))
    if deep and (unlisted := unlisted_files(opened.location)):
        console.print(
            f"note: {counted(unlisted, 'file')} of Icechunk without a checksum, not checked; the "
            "next writer adds the checksums"
        )
    if deep:
        console.print(faults.coverage)
    console.print(counted(len(faults), "fault") if faults else "no faults")
    return int(bool(faults))


def doctor(
    lake: LakeArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove files left behind by killed runs.")
    ] = False,
    restore: Annotated[
        str | None,
        typer.Option(
            "--restore",
            metavar="SNAPSHOT|newest",
            help="Return to this sound commit, or to the newest one, if the lake is damaged.",
        ),
    ] = None,
    privacy: Annotated[
        bool,
        typer.Option(
            "--privacy", help="List the places that can identify patients, and change nothing."
        ),
    ] = False,
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="With --privacy: also search these models (repeatable)."),
    ] = None,
    catalog: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="With --privacy: also search this catalog (repeatable)."),
    ] = None,
) -> int:
    """Find damaged files, interrupted runs, failed exams, and files of killed runs.

    The exit code is 1 if a file is damaged. Committed data are never changed. --restore adds a
    commit with the content of an earlier one and removes nothing. --privacy lists the places of
    patient numbers, dates, UIDs, paths, host names and free texts, and never the values.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.cli._results import print_table
    from qmri_lake.lake.lake import open_lake

    if privacy:
        if repair or restore:
            raise typer.BadParameter("--privacy changes nothing: omit --repair and --restore")
        opened = open_lake(lake, mode="r")
        found = opened.identifiers(models=models or (), catalogs=catalog or ())
        print_table(found, "Identifiers" if len(found) else "no identifiers")
        return 0
    if models or catalog:
        raise typer.BadParameter("--models and --catalog need --privacy")
    if restore is not None:
        from qmri_lake.store.recovery import restore_commit

        restored = restore_commit(lake, restore)
        console.print(f"{lake}: {restored} has the content of the commit {restore}")
    findings = open_lake(lake).doctor(repair=repair)
    console.print(str(findings))
    return SOME_FAILED if findings.damaged else FINISHED


def prune(
    lake: LakeArgument,
    days: Annotated[
        int, typer.Option("--days", min=0, help="Remove commits older than this number of days.")
    ] = 30,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove old commits of a lake, and the values that only they contain.

    The newest commit, tagged commits and younger commits are kept. The command shows what it will
    remove and asks for confirmation, because the removal can't be undone. Do not read old commits
    during the removal.
    """
    from datetime import timedelta

    from qmri_lake.cli._progress import console
    from qmri_lake.lake import open_lake

    opened, older_than = open_lake(lake), timedelta(days=days)
    if not yes:
        planned = opened.prune(older_than=older_than, dry_run=True)
        if planned.removed:
            typer.confirm(f"{planned}. This can't be undone. Remove?", abort=True)
    console.print(str(opened.prune(older_than=older_than)))


def forget(
    patient: Annotated[
        str, typer.Argument(metavar="PATIENT", help="Number or identifier of the patient.")
    ],
    lake: LakeOption,
    derived: Annotated[
        list[str] | None,
        typer.Option(
            "--derived",
            metavar="LAKE",
            help="Derived lake to look for the patient in; repeat for several.",
        ),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--models",
            metavar="FOLDER",
            help="Folder of trained models to look for the patient in; repeat for several.",
        ),
    ] = None,
    delete_tags: Annotated[
        bool, typer.Option("--delete-tags", help="Delete tags whose commits contain the patient.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove all data of a patient from a lake and its history, when consent is withdrawn.

    The command shows what it will remove and asks for confirmation, because the removal can't be
    undone and all earlier commits expire. Then it searches every object of the lake for the number
    of the patient. Do not read the lake during the removal. Derived lakes and models are listed,
    but not changed. If the command is killed, repeat it.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.lake import open_lake

    number, opened = parse_patient(patient), open_lake(lake)

    def remove(*, dry_run: bool) -> Forgetting:
        return opened.forget(
            number,
            delete_tags=delete_tags,
            derived=derived or (),
            models=models or (),
            dry_run=dry_run,
        )

    if dry_run:
        console.print(str(remove(dry_run=True)))
        return
    if not yes:
        planned = remove(dry_run=True)
        if planned.allowed and planned.found:
            typer.confirm(f"{planned}\nThis can't be undone. Remove?", abort=True)
    console.print(str(remove(dry_run=False)))


def upgrade(
    lake: LakeArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Convert a lake to the newest format of Icechunk; history and tags are kept.

    The conversion can't be undone, and an older Icechunk can't read the lake afterwards. Do not
    read or write the lake during the upgrade.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.lake import open_lake
    from qmri_lake.store.repository import newest_format

    opened = open_lake(lake)
    before, newest = opened.storage_format, newest_format()
    if before < newest and not yes:
        typer.confirm(
            f"{opened.url} is in Icechunk format {before}. After the upgrade to format {newest}, "
            f"an Icechunk older than {newest} can't read it. This can't be undone. Upgrade?",
            abort=True,
        )
    after = opened.upgrade().storage_format
    if after == before:
        console.print(f"{opened.url} is already in Icechunk format {after}")
    else:
        console.print(
            f"{opened.url}: converted from Icechunk format {before} to {after}; "
            f"it needs Icechunk {after} or later"
        )
