"""Recipes: the numbers of the paper, and the round trip through a model card."""

from __future__ import annotations

import json

import pytest

from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.segmentation.models.losses import LOSSES
from qmri_lake.segmentation.models.recipes import PRESETS, TASKS, Recipe, recipes
from qmri_lake.segmentation.models.vnet import padding


def test_recipes__bones_are_as_published() -> None:
    found = recipes("bones")
    assert [recipe.loss for recipe in found] == list(LOSSES)
    for recipe in found:
        assert (recipe.learning_rate, recipe.epochs, recipe.patience) == (5e-4, 500, 30)
        assert (recipe.batch, recipe.augment, recipe.copies, recipe.steps) == (1, True, 0, None)
        assert recipe.architecture.rank == 3
        assert recipe.architecture.stride == 16
        assert (recipe.architecture.dropout, recipe.decay, recipe.weight_power) == (0.05, False, 1)


def test_recipes__cartilage_is_as_published() -> None:
    found = recipes("cartilage")
    assert sorted(recipe.architecture.rank for recipe in found) == [2, 2, 2, 3, 3, 3]
    for recipe in found:
        three = recipe.architecture.rank == 3
        assert (recipe.learning_rate, recipe.patience) == (1e-4, 30)
        assert recipe.frame.crop == (140, 344, 344)
        assert recipe.frame.medial_first
        assert recipe.frame.percentile == 85
        assert recipe.copies == (18 if three else 0)
        if not three:
            assert recipe.architecture.convolutions == (4, 4)
            assert recipe.architecture.bottom == 4


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", TASKS)
def test_recipes__of_both_presets_are_the_same_members(task: str, preset: str) -> None:
    paper, found = recipes(task), recipes(task, preset)
    # In another order: small networks with the losses that learn surely come first.
    assert sorted((r.name, r.loss, r.task, r.architecture.rank) for r in found) == sorted(
        (r.name, r.loss, r.task, r.architecture.rank) for r in paper
    )
    for recipe in found:
        assert recipe.architecture.classes == len(TASKS[task])
        # The size that the preset is made for can pass through the network.
        shape = (160, 384, 384) if preset == "paper" else (64, 144, 144)
        seen = recipe.frame.size(shape)[3 - recipe.architecture.rank :]
        padding(seen, recipe.architecture.stride)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", TASKS)
def test_recipe__round_trip_through_json(task: str, preset: str) -> None:
    for recipe in recipes(task, preset):
        again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
        assert again == recipe
        assert again.to_dict() == recipe.to_dict()


def test_recipes__members_are_the_first() -> None:
    assert recipes("bones", members=2) == recipes("bones")[:2]
    assert {r.name for r in recipes("cartilage", members=2)} == {"cartilage_2d", "cartilage_3d"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("bone",), NotFoundError, "Did you mean 'bones'?"),
        (("bones", "smal"), NotFoundError, "Did you mean 'small'?"),
        (("bones", "paper", 6), InputError, "expected 1 to 5"),
        (("cartilage", "paper", 0), InputError, "expected 1 to 6"),
    ],
)
def test_recipes__errors_list_the_choices(
    arguments: tuple[object, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        recipes(*arguments)
    assert words in str(caught.value)
