"""Recipes: the paper's numbers, and values that no recipe can have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qmri_lake.diagnosis.models.recipes import Recipe, recipe
from qmri_lake.errors import InputError, NotFoundError


def test_recipe__the_papers() -> None:
    found = recipe("oa")
    assert (found.depth, found.size, found.start, found.frozen) == (50, 224, "imagenet", "none")
    assert (found.learning_rate, found.weight_decay, found.batch) == (1e-5, 0.9, 300)
    assert (found.epochs, found.patience, found.weighted) == (100, 15, True)
    assert recipe("pain") == replace(found, task="pain", start="oa")


def test_recipe__small_ones() -> None:
    found = recipe("oa", "small")
    assert (found.depth, found.size, found.start) == (18, 64, "random")
    pain = recipe("pain", "small")
    assert pain == replace(found, task="pain", start="oa", learning_rate=found.learning_rate / 10)


def test_recipe__comes_back_from_a_card() -> None:
    assert Recipe.from_dict(recipe("pain", "small").to_dict()) == recipe("pain", "small")


def test_recipe__unknown_names() -> None:
    with pytest.raises(NotFoundError, match=r"no task 'pian'.*Did you mean 'pain'\?"):
        recipe("pian")
    with pytest.raises(NotFoundError, match=r"no preset 'tiny' \(expected one of paper, small"):
        recipe("oa", "tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 101}, r"depth=101 \(expected one of 18, 34, 50"),
        ({"size": 128}, r"size=128 \(expected one of 224, 64"),
        ({"frozen": "layer1"}, "frozen='layer1'"),
        ({"batch": 0}, "batch=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ],
)
def test_recipe__refuses(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(recipe("oa"), **change)
