"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from qmri_lake.errors import InputError, Reason

__all__ = ["ClusterOption", "LakeArgument", "LakeOption", "RefOption", "parameters", "shape"]

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
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="WHERE",
        help="auto, cpu, gpu, or a Dask scheduler such as tcp://node:8786. "
        "Default: this process, one exam after another.",
    ),
]  # fmt: skip


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
