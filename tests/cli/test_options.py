"""Options that commands share, and the parsing of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer

from qmri_lake.cli._options import expand_options, parse_parameters, parse_shape
from qmri_lake.errors import InputError


@dataclass(frozen=True)
class Shared:
    lake: Annotated[str, typer.Option(help="A lake.")]
    seed: Annotated[int, typer.Option(help="A seed.")] = 3


@dataclass(frozen=True)
class More(Shared):
    bone: Annotated[list[str] | None, typer.Option()] = None


def test_expand_options__passes_the_fields_of_each_dataclass() -> None:
    calls: list[tuple[Any, ...]] = []

    def command(
        options: More, figure: Annotated[str, typer.Option(help="A figure.")] = "a.svg"
    ) -> None:
        """Teach something."""
        calls.append((options, figure))

    app = typer.Typer()
    app.command()(expand_options(command))
    click_command: Any = typer.main.get_command(app)
    assert click_command.help == "Teach something."
    names = [parameter.name for parameter in click_command.params]
    assert names[:4] == ["lake", "seed", "bone", "figure"]
    words = ["--lake", "l", "--bone", "femur", "--bone", "tibia"]
    click_command.main(words, standalone_mode=False)
    click_command.main(["--lake", "m", "--seed", "5", "--figure", "b"], standalone_mode=False)
    assert calls == [(More("l", 3, ["femur", "tibia"]), "a.svg"), (More("m", 5, None), "b")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("all", "all"),
        ("0,100", (0, 100)),
        ("0.8", 0.8),
        ("none", None),
        ("TRUE", True),
        ("/models/a b", "/models/a b"),
        ("", ""),
    ],
)
def test_parse_parameters__literals_and_text(text: str, value: object) -> None:
    assert parse_parameters([f"name={text}"]) == {"name": value}


def test_parse_parameters__keeps_further_equals_signs() -> None:
    assert parse_parameters(["query=kl == 2"]) == {"query": "kl == 2"}


@pytest.mark.parametrize("setting", ["within", "=all", "two words=1"])
def test_parse_parameters__needs_a_name_and_a_value(setting: str) -> None:
    with pytest.raises(InputError, match="expected name=value"):
        parse_parameters([setting])


def test_parse_shape__needs_three_integers() -> None:
    assert parse_shape("64X144x145") == (64, 144, 145)
    for text in ("64x144", "64x144x1.5", ""):
        with pytest.raises(InputError, match="slices x rows x columns"):
            parse_shape(text)
