"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qmri_lake.errors import InputError, Reason

__all__ = [
    "ClusterOption", "CohortOption", "EpochsOption", "LakeArgument", "LakeOption", "OutOption",
    "PresetOption", "RefOption", "RequireOption", "ResumeOption", "SeedOption",
    "parameters", "shape",
]  # fmt: skip

LakeOption = Annotated[
    str,
    typer.Option(
        "--lake", "-l", envvar="QMRI_LAKE", metavar="LAKE",
        help="The lake: a folder, or s3://, gs:// or az:// URL.",
    ),
]  # fmt: skip
LakeArgument = Annotated[
    str,
    typer.Argument(
        envvar="QMRI_LAKE", metavar="LAKE", help="The lake: a folder, or s3://, gs://, az:// URL."
    ),
]
RefOption = Annotated[
    str | None,
    typer.Option("--ref", metavar="REF", help="A tag, branch or snapshot: the lake as it was."),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option(
        "--require", metavar="GROUP/NAME", help="Keep exams that have it, such as msme/t2."
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="WHERE",
        help="auto, cpu, gpu, or a Dask scheduler such as tcp://node:8786. "
        "Default: this process, one after another.",
    ),
]  # fmt: skip
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="MODELS", help="Folder of what is trained.")
]
PresetOption = Annotated[
    str, typer.Option(metavar="paper|small", help="As published, or what a laptop can train.")
]
CohortOption = Annotated[
    str | None,
    typer.Option(metavar="QUERY", help='Exams to choose from, such as "timepoint == 0".'),
]
SeedOption = Annotated[int, typer.Option(help="Of the split, the weights and all chance.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on where the last training stopped.")
]
EpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Stop each model after so many epochs at the latest.")
]


def shape(text: str) -> tuple[int, int, int]:
    """Read ``64x144x144``."""
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


def parameters(settings: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value is a Python literal where it can be one, else text."""
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
        try:
            values[name] = ast.literal_eval(text.strip().capitalize() if _is_word(text) else text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def _is_word(text: str) -> bool:
    """Tell true, false and none, which Python spells with a capital."""
    return text.strip().lower() in ("true", "false", "none")
