"""Options that several commands share, and the parsing of their text."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from qmri_lake.errors import InputError, Reason

if TYPE_CHECKING:
    from qmri_lake.lake.cohort import Cohort
    from qmri_lake.lake.lake import Lake

__all__ = [
    "ClusterOption",
    "CohortOption",
    "ExamsOption",
    "FormOption",
    "KneeOption",
    "LakeArgument",
    "LakeOption",
    "PatientOption",
    "PopulationSeedOption",
    "ProblemsOption",
    "ProfileOption",
    "RefOption",
    "RequireOption",
    "ShapeOption",
    "StrategyOption",
    "TimepointOption",
    "TrainingOptions",
    "choose_exams",
    "expand_options",
    "parse_parameters",
    "parse_patient",
    "parse_shape",
    "parse_units",
    "parse_visits",
]

# ------------------------------------------------------------------------------- lakes and cohorts

LakeOption = Annotated[
    str,
    typer.Option(
        "--lake",
        "-l",
        envvar="QMRI_LAKE",
        metavar="LAKE",
        help="Folder of the lake, or its s3://, gs:// or az:// URL.",
    ),
]
LakeArgument = Annotated[
    str,
    typer.Argument(
        envvar="QMRI_LAKE",
        metavar="LAKE",
        help="Folder of the lake, or its s3://, gs:// or az:// URL.",
    ),
]
RefOption = Annotated[
    str | None,
    typer.Option(
        "--ref",
        metavar="REF",
        help="Tag, branch or snapshot to read (default: the newest commit).",
    ),
]
CohortOption = Annotated[
    str | None,
    typer.Option(
        metavar="QUERY|@FILE",
        help='Exams to use, such as "timepoint == 0 and kl >= 2", or a list such as @ids.csv: a '
        "table with patient and optionally timepoint and knee, or one patient or exam key per line "
        "(default: all).",
    ),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="GROUP/NAME",
        help="Keep only exams that have this variable, such as msme/t2 (repeatable).",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|cpu|gpu|URL",
        help="Where to compute: auto, cpu, gpu, or the URL of a Dask scheduler such as "
        "tcp://node:8786 (default: in this process, one task at a time).",
    ),
]

# ------------------------------------------------------------------------------------------ ingest

PatientOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATIENT",
        help="Number or identifier of the patient, such as P007, if the files do not state it.",
    ),
]
TimepointOption = Annotated[
    int | None, typer.Option(help="Months after enrolment, if the files do not state it.")
]
KneeOption = Annotated[
    str | None,
    typer.Option(metavar="left|right", help="Side of the knee, if the files do not state it."),
]
FormOption = Annotated[
    str | None,
    typer.Option(
        metavar="sform|qform",
        help="Affine of NIfTI files to use if their sform and qform differ. Without this "
        "option, such files are listed as problems.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="oai",
        help="Array sizes of a new lake: oai is large enough for every OAI series (default: large "
        "enough for the files of the first ingest).",
    ),
]
ProblemsOption = Annotated[
    Path | None, typer.Option(metavar="CSV", help="Also write the list of problems to this file.")
]

# ------------------------------------------------------------------------------- synthetic knees

ExamsOption = Annotated[
    int,
    typer.Option(min=1, help="Number of exams; an exam is one knee of one patient at one visit."),
]
ShapeOption = Annotated[
    str,
    typer.Option("--shape", metavar="SxRxC", help="Slices x rows x columns of the DESS volumes."),
]
PopulationSeedOption = Annotated[int, typer.Option(help="Random seed of the synthetic population.")]

# ---------------------------------------------------------------------------------------- training

StrategyOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Merging strategy to train (repeatable; default: all six)."),
]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of all commands that train models."""

    lake: LakeOption
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="MODELS", help="Folder for the trained models.")
    ]
    preset: Annotated[
        str,
        typer.Option(
            metavar="paper|small",
            help="Settings: paper (as published) or small (for a laptop).",
        ),
    ] = "paper"
    cohort: CohortOption = None
    seed: Annotated[
        int, typer.Option(help="Random seed for split, initial weights and augmentation.")
    ] = 0
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a training that was stopped.")
    ] = False
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of epochs per model (default: set by the preset)."
        ),
    ] = None
    cluster: ClusterOption = None
    ref: RefOption = None


def expand_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn each dataclass parameter of a command into one option per field.

    Typer derives options from the signature of a function. Commands that share options receive them
    in one dataclass. This decorator gives Typer a function with the fields as keyword-only
    parameters.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            )
            continue
        groups[name] = kind
        parameters += [
            field.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
            for field, annotation in zip(
                inspect.signature(kind).parameters.values(),
                get_type_hints(kind, include_extras=True).values(),
                strict=True,
            )
        ]

    @functools.wraps(command)
    def expanded(**values: Any) -> Any:
        grouped = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        return command(**grouped, **values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {p.name: p.annotation for p in parameters}
    return expanded


# ----------------------------------------------------------------------------------------- parsing


def choose_exams(lake: Lake, text: str | None) -> Cohort | str | None:
    """Return the exams of a list, for ``@FILE`` or ``@FILE and QUERY``; otherwise the query itself.

    The number of exams in the list is printed, because a list may name exams that the lake does not
    have.
    """
    from qmri_lake.cli._progress import console
    from qmri_lake.core.text import counted

    if text is None or not text.startswith("@"):
        return text
    file, _, query = text[1:].partition(" and ")
    listed = lake.cohort(ids=Path(file.strip()))
    row = listed.rows_of_flow[-1]
    console.print(f"{counted(row.exams, 'exam')} {row.condition}" + f"; {row.why}" * bool(row.why))
    return listed.where(query) if query else listed


def parse_shape(text: str) -> tuple[int, int, int]:
    """Parse a shape such as ``64x144x144``.

    Raises
    ------
    InputError
        If the text is not three integers separated by ``x``.
    """
    try:
        slices, rows, columns = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InputError(
            f"shape {text!r}",
            expected="slices x rows x columns, such as 64x144x144",
            where="--shape",
            reason=Reason.UNREADABLE_VALUE,
        ) from None
    return slices, rows, columns


def parse_patient(text: str) -> int | str:
    """Parse the number of a patient, or an identifier of the study such as ``P007``.

    Raises
    ------
    InputError
        If the text is an exam key. The message suggests its number.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    number = re.match(r"0*(\d+)-\d+m-(left|right)$", text)
    if number is None and text.strip():
        return text.strip()
    raise InputError(
        f"patient {text!r}",
        expected="the number of a patient, such as 9000798, or an identifier of the study",
        where="PATIENT",
        todo=f"Did you mean {number[1]}?" if number else "",
        reason=Reason.UNREADABLE_VALUE,
    )


def parse_parameters(settings: Sequence[str]) -> dict[str, Any]:
    """Parse ``name=value`` pairs.

    A value that is a Python literal is evaluated; any other value is text. ``true``, ``false`` and
    ``none`` may be written without capitals.

    Raises
    ------
    InputError
        If a setting has no ``=``, or its name is not an identifier.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign or not name.isidentifier():
            raise InputError(
                f"{setting!r}",
                expected="name=value, such as within=all or bounds=0,100",
                where="--set",
                reason=Reason.UNREADABLE_VALUE,
            )
        is_keyword = text.strip().lower() in ("true", "false", "none")
        try:
            values[name] = ast.literal_eval(text.strip().capitalize() if is_keyword else text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def parse_units(settings: Sequence[str]) -> dict[str, str]:
    """Parse ``COLUMN=UNIT`` pairs; a column may contain ``=``.

    Raises
    ------
    InputError
        If a setting has no column or no unit.
    """
    units = {}
    for setting in settings:
        column, _, unit = setting.rpartition("=")
        if not column or not unit.strip():
            raise InputError(
                f"{setting!r}",
                expected="COLUMN=UNIT, such as width=mm",
                where="--unit",
                reason=Reason.UNREADABLE_VALUE,
            )
        units[column] = unit.strip()
    return units


def parse_visits(settings: Sequence[str]) -> dict[str, int]:
    """Parse ``NAME=MONTHS`` pairs.

    Raises
    ------
    InputError
        If a setting has no name, or its months are no whole number.
    """
    visits = {}
    for setting in settings:
        name, _, months = setting.rpartition("=")
        if not name.strip() or not (months.isascii() and months.strip().isdigit()):
            raise InputError(
                f"{setting!r}",
                expected="NAME=MONTHS, such as followup=24",
                where="--visit",
                reason=Reason.UNREADABLE_VALUE,
            )
        visits[name.strip()] = int(months)
    return visits
