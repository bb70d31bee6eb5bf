"""The commands of ``qmri-lake``, in the order in which the help lists them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qmri_lake.cli import (
    demo,
    derive,
    dess_from_qdess,
    editing,
    export,
    figures,
    ingest,
    inspect,
    maintain,
    phantom,
    report,
    run,
    train_networks,
)

__all__ = ["command"]

HELP = """Array-native data lake for quantitative knee MRI.

New here? **qmri-lake demo** runs the whole chain on synthetic knees: DICOM, masks, T2, spherical
maps, classifiers and a report. To make a lake from your own data:

    qmri-lake ingest /data/oai --lake oai.lake
    qmri-lake info oai.lake
    qmri-lake run t2 --lake oai.lake --set within=all

You can stop a long command with Ctrl-C. The same command resumes it (training: with --resume).

Exit codes: 0 success; 1 finished, but some exams or files failed and are listed; 2 an error
prevented the command from running; 130 stopped by Ctrl-C or SIGTERM."""


def command() -> Any:
    """Build the tree of commands."""
    app = typer.Typer(
        help=HELP,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for panel, commands in (
        ("Start", (demo.demo, phantom.phantom, phantom.phantom_truth)),
        (
            "Data",
            (
                ingest.ingest,
                ingest.ingest_masks,
                ingest.ingest_table,
                editing.export_for_editing,
                editing.import_edits,
                dess_from_qdess.dess_from_qdess,
                run.run,
                derive.derive,
                export.export,
                report.report,
            ),
        ),
        (
            "Inspect",
            (
                inspect.info,
                inspect.cohort,
                inspect.failures,
                figures.view,
                figures.atlas,
                figures.paper,
            ),
        ),
        (
            "Maintain",
            (
                maintain.tag,
                maintain.catalog,
                maintain.validate,
                maintain.doctor,
                maintain.prune,
                maintain.forget,
                maintain.upgrade,
            ),
        ),
    ):
        for function in commands:
            app.command(rich_help_panel=panel)(function)
    app.add_typer(train_networks.commands(), name="train", rich_help_panel="Data")
    return typer.main.get_command(app)


def _version(requested: bool) -> None:
    if requested:
        from qmri_lake.core.version import __version__

        typer.echo(f"qmri-lake {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Print log messages (-v: INFO, -vv: DEBUG); allowed anywhere in the command.",
        ),
    ] = 0,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Print the traceback of an error; allowed anywhere in the command."
        ),
    ] = False,
) -> None:
    # `main` handles --verbose and --debug; they are declared here so that --help shows them.
    pass
