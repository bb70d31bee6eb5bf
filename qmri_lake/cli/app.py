"""All commands, in the order in which a user meets them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qmri_lake.cli import care, data, demo, look, train, work

__all__ = ["command"]

HELP = """The array-native data lake for quantitative knee MRI.

New here? **qmri-lake demo** takes synthetic knees through the whole chain, from DICOM to masks, T2,
maps, classifiers and a report. A first lake of your own:

    qmri-lake ingest /data/oai --lake oai.lake
    qmri-lake info oai.lake
    qmri-lake run t2 --lake oai.lake --set within=all

Every long command can be stopped with Ctrl-C and started again: it goes on where it was.

Exit code 0: all well. 1: finished, but some exams or files failed and are listed. 2: not done."""


def command() -> Any:
    """Build the command tree."""
    app = typer.Typer(
        help=HELP,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for panel, commands in (
        ("Start", (demo.demo, data.phantom, data.phantom_truth)),
        ("Data", (data.ingest, data.ingest_masks, work.run, work.derive, work.report)),
        ("Look", (care.info, care.cohort, care.failures, look.view, look.atlas, look.paper)),
        ("Care", (care.tag, care.catalog, care.validate, care.doctor)),
    ):
        for function in commands:
            app.command(rich_help_panel=panel)(function)
    app.add_typer(train.commands(), name="train", rich_help_panel="Data")
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        from qmri_lake import __version__

        typer.echo(f"qmri-lake {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")
    ] = False,
) -> None:
    # `main` has taken --debug already; it is declared here so that --help shows it.
    pass
