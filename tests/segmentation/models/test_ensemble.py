"""What an ensemble says of an exam: against the plain mean of its members, and of networks that
are known functions."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from qmri_lake.core.model_folder import CARD
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.segmentation.models.custom import OwnNetwork
from qmri_lake.segmentation.models.ensemble import segment_exam
from qmri_lake.segmentation.models.members import open_members
from qmri_lake.segmentation.models.network import WEIGHTS, Network
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.tissues import BONE, CARTILAGE
from tests.segmentation.networks import WHOLE, needs_bfloat16, tiny, write_network

SHAPE = (9, 14, 12)
AFFINE = np.diag([0.7, 0.4, 0.3, 1.0])
BONES = tuple(BONE)
CROPPED = NetworkView(medial_first=True, crop=(6, 10, 20))
COARSE = NetworkView(medial_first=False, crop=None, shrink=(1, 2, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three members with whole volumes, one with a crop, a coarse one and a 2D one."""
    root = tmp_path_factory.mktemp("bones")
    frames = {"a": WHOLE, "b": WHOLE, "c": WHOLE, "cropped": CROPPED, "coarse": COARSE}
    for seed, (name, frame) in enumerate(frames.items()):
        write_network(root / name, tiny(frame=frame), seed)
    write_network(root / "flat", tiny(rank=2), 9)
    return root


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(1, 5, SHAPE).astype(np.float32)


def says(label, *, share=1.0, frame=WHOLE, name="says"):
    """A network that predicts one label everywhere with this probability."""

    def function(image):
        found = np.full((4, *image.shape), (1 - share) / 3, np.float32)
        found[label] = share
        return found

    return OwnNetwork(function, BONES, frame=frame, name=name)


# -- against the plain computation ---------------------------------------------------------------


def test_segment_exam__is_the_arg_max_of_the_mean_of_all_members(folder, image):
    members = open_members(folder)
    assert len(members) == 6
    maps = []
    for member in members:
        seen = member.frame.transform(image, AFFINE, "left")
        maps.append(member.frame.inverse(member.predict(seen), SHAPE, AFFINE, "left"))
    mean = np.mean(maps, axis=0)
    labels, uncertainty = segment_exam(image, AFFINE, "left", members)
    assert labels.dtype == np.uint8
    assert labels.shape == SHAPE
    top = np.sort(mean, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    assert clear.mean() > 0.99
    assert np.array_equal(labels[clear], mean.argmax(axis=0)[clear])
    assert len(np.unique(labels)) > 1
    own = np.stack([m.argmax(axis=0) for m in maps])
    assert uncertainty.dtype == np.float32
    np.testing.assert_allclose(uncertainty, (own != labels).mean(axis=0), atol=1e-6)
    assert 0 < uncertainty.mean() < 1


def test_segment_exam__does_not_depend_on_the_order_of_members(folder, image):
    members = open_members(folder)
    there = segment_exam(image, AFFINE, "right", members)
    back = segment_exam(image, AFFINE, "right", members[::-1])
    assert (there.labels == back.labels).mean() > 0.999


def test_segment_exam__uncertainty_is_the_fraction_that_differs(image):
    labels, uncertainty = segment_exam(
        image, AFFINE, "left", [says(1, share=0.9), says(2, share=0.4), says(2, share=0.4)]
    )
    assert (labels == 1).all()  # one sure member outweighs two that hesitate
    assert np.allclose(uncertainty, 2 / 3)
    sure = segment_exam(image, AFFINE, "left", [says(3), says(3)])
    assert (sure.labels == 3).all()
    assert (sure.uncertainty == 0).all()


def test_segment_exam__a_single_member_has_no_uncertainty(folder, image):
    assert segment_exam(image, AFFINE, "left", open_members(folder / "a")).uncertainty is None


def test_segment_exam__outside_a_crop_a_member_votes_for_background(image):
    inside = np.zeros(SHAPE, bool)
    inside[1:7, 2:12] = True  # of the flipped axis: 9 slices, 6 seen, one more left out at the end
    labels, uncertainty = segment_exam(
        image, AFFINE, "right", [says(1, frame=CROPPED), says(1, share=0.9), says(1, share=0.9)]
    )
    seen = np.where(inside, 0, np.float32(1 / 3))
    flipped = np.array_equal(uncertainty, seen[::-1]) or np.array_equal(uncertainty, seen)
    assert flipped
    assert (labels == 1).all()


def test_segment_exam__transforms_the_image_once_per_view(image):
    pictures = []

    def function(seen):
        pictures.append(seen)
        return np.full((4, *seen.shape), 0.25, np.float32)

    members = [OwnNetwork(function, BONES, frame=f, name="own") for f in (WHOLE, CROPPED, WHOLE)]
    segment_exam(image, AFFINE, "left", members)
    assert len({id(picture) for picture in pictures}) == 2
    assert sum(picture.shape == SHAPE for picture in pictures) == 2


def test_segment_exam__image_is_not_modified(folder, image):
    before = image.copy()
    segment_exam(image, AFFINE, "left", open_members(folder))
    assert np.array_equal(before, image)


@needs_bfloat16
def test_predict__in_bfloat16_labels_agree_nearly(folder, image, judge):
    wide = [segment_exam(image, AFFINE, "left", open_members(folder)).labels]
    narrow = segment_exam(image, AFFINE, "left", open_members(folder, dtype="bfloat16")).labels
    agree = float((wide[0] == narrow).mean())
    assert not all(
        np.array_equal(a.predict(image), b.predict(image))
        for a, b in zip(open_members(folder), open_members(folder, dtype="bfloat16"), strict=True)
    )
    judge(
        "Segmentation / bfloat16, random weights",
        required="at least 95 % of labels as in float32",
        measured=f"{agree:.1%}",
        passed=agree >= 0.95,
    )


# -- what can't be segmented ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda x: np.where(x > 4.99, np.nan, x), "voxels that are not finite"),
        (np.zeros_like, "0 as percentile 85 of the image"),
    ],
    ids=["nan", "zeros"],
)
def test_segment_exam__an_image_without_signal(folder, image, values, message):
    with pytest.raises(InputError, match=message) as caught:
        segment_exam(values(image), AFFINE, "left", open_members(folder / "a"))
    assert caught.value.reason is Reason.UNREADABLE_VALUE


def test_segment_exam__smaller_than_the_stride(folder, image):
    with pytest.raises(InputError, match=r"a volume of 1 x 14 x 12 voxels \(expected at least 2"):
        segment_exam(image[:1], AFFINE, "left", open_members(folder / "a"))
    segment_exam(image[:1], AFFINE, "left", open_members(folder / "flat"))  # slices are its images


def test_segment_exam__networks_of_two_tasks(folder, image, tmp_path):
    other = write_network(tmp_path / "cartilage", tiny("cartilage"))
    with pytest.raises(InputError, match=r"bones and cartilage \(expected networks of one task"):
        segment_exam(image, AFFINE, "left", open_members([folder, other]))


def test_open_members__of_another_task(folder):
    with pytest.raises(
        InputError, match=r"a network for bones \(expected a network for cartilage"
    ) as caught:
        open_members(folder, task="cartilage")
    assert caught.value.reason is Reason.MODEL_MISMATCH


@pytest.mark.parametrize(
    ("models", "kind", "message"),
    [
        ("nowhere", NotFoundError, "no card.json"),
        ([], NotFoundError, "no network"),
        (3, InputError, r"a int \(expected a folder, a Network or an OwnNetwork"),
        (np.ones_like, InputError, "Wrap a function: ql.segmentation.OwnNetwork"),
    ],
    ids=["nowhere", "none", "number", "function"],
)
def test_open_members__no_network(models, kind, message):
    with pytest.raises(kind, match=message):
        open_members(models)


def test_open_members__an_unknown_dtype(folder):
    with pytest.raises(InputError, match=r"dtype='float16' \(expected float32 or bfloat16"):
        open_members(folder, dtype="float16")


# -- networks of one's own -----------------------------------------------------------------------


def test_own_network__reorders_classes(image):
    rng = np.random.default_rng(1)
    theirs = rng.dirichlet(np.ones(6), SHAPE).transpose(3, 0, 1, 2)
    names = ["background", "femoral", "meniscus", "tibial", "tibial", "patellar"]
    network = OwnNetwork(lambda image: theirs, labels=names, name="theirs")
    found = network.predict(image)
    assert network.task == "cartilage"
    for name, value in CARTILAGE.items():
        expected = sum(theirs[n] for n, other in enumerate(names) if other == name)
        np.testing.assert_allclose(found[value], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["background", "femur", "tibia"], r"no class for patella \(expected a label for each of"),
        (
            ["background", "femur", "tibea", "patella"],
            r"a class 'tibea' \(expected .* Did you mean 'tibia'",
        ),
        ([*BONES, "fibula"], r"a class 'fibula' \(expected a label for each of background, femur"),
        ("femur", "no class for background, tibia, patella"),
    ],
    ids=["missing", "misspelt", "unknown", "text"],
)
def test_own_network__rejects_unknown_labels(labels, message):
    with pytest.raises(InputError, match=message) as caught:
        OwnNetwork(np.abs, labels=labels, name="any")
    assert caught.value.reason is Reason.MODEL_MISMATCH


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: np.zeros((3, *x.shape)), r"shape \(3, 9, 14, 12\) \(expected \(4, 9, 14, 12\)"),
        (lambda x: np.zeros((4, 2, *x.shape[1:])), r"shape \(4, 2, 14, 12\)"),
        (lambda x: np.full((4, *x.shape), -7.0), r"values from -7 to -7 \(expected probabilities"),
        (lambda x: np.full((4, *x.shape), np.nan), "values from nan to nan"),
    ],
    ids=["classes", "grid", "logits", "nan"],
)
def test_segment_exam__rejects_outputs_that_are_not_probabilities(image, function, message):
    with pytest.raises(InputError, match=message) as caught:
        segment_exam(image, AFFINE, "left", [OwnNetwork(function, BONES, name="mine")])
    assert caught.value.reason is Reason.MODEL_MISMATCH
    assert caught.value.where.startswith("mine")


# -- networks on disk ----------------------------------------------------------------------------


def test_network__weights_changed_after_opening(folder, image, tmp_path):
    path = write_network(tmp_path / "retrained", tiny())
    network = Network.open(path)
    (path / WEIGHTS).write_bytes((folder / "b" / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=r"as when the network was opened.*Open the network again"):
        segment_exam(image, AFFINE, "left", [network])
    assert Network.open(path).identity != network.identity
    (path / WEIGHTS).unlink()
    with pytest.raises(NotFoundError, match="Keep this folder until the run ends"):
        segment_exam(image, AFFINE, "left", [network])


def test_network__weights_of_another_architecture(image, tmp_path):
    path = write_network(tmp_path / "narrow", tiny(channels=2))
    wide = write_network(tmp_path / "wide", tiny(channels=4))
    (path / WEIGHTS).write_bytes((wide / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=r"weights that don't fit .*beside the card") as caught:
        segment_exam(image, AFFINE, "left", open_members(path))
    assert caught.value.reason is Reason.MODEL_MISMATCH


def test_network__rejects_unknown_classes(tmp_path):
    path = write_network(tmp_path / "old", tiny())
    card = (path / CARD).read_text().replace('"patella"', '"fibula"')
    (path / CARD).write_text(card)
    with pytest.raises(InputError, match=r"classes background, femur, tibia, fibula \(expected"):
        open_members(path)


def test_network__identity_depends_on_weights_not_on_the_folder(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.mkdir(parents=True)
    for name in (CARD, WEIGHTS):
        (moved / name).write_bytes((folder / "a" / name).read_bytes())
    here, there = Network.open(folder / "a"), Network.open(moved)
    assert here.identity == there.identity
    assert str(tmp_path) not in there.identity
    assert replace(here, dtype="mixed_bfloat16").identity == f"{here.identity} in bfloat16"


def _recarded(folder, name, change):
    """The same weights with a different card."""
    folder.mkdir()
    card = json.loads((name / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))
    (folder / WEIGHTS).write_bytes((name / WEIGHTS).read_bytes())
    return Network.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["recipe"]["frame"].update(medial_first=True),
        lambda card: card["recipe"]["frame"].update(percentile=90.0),
        lambda card: card.update(spacing=[0.7, 0.4, 0.3]),
    ],
    ids=["side", "percentile", "spacing"],
)
def test_network__identity_depends_on_settings_in_the_card(folder, tmp_path, change):
    plain = Network.open(folder / "a")
    same = _recarded(tmp_path / "same", folder / "a", lambda card: card.update(epochs=3))
    other = _recarded(tmp_path / "other", folder / "a", change)
    assert same.identity == plain.identity
    assert other.digest == plain.digest
    assert other.identity != plain.identity


def test_network__identity_is_the_same_everywhere(folder, tmp_path):
    """The identity of this card and these weights, in every process and on every machine."""
    network = _recarded(tmp_path / "a", folder / "a", lambda card: card.update(recipe=_CARD))
    assert network.identity == f"a@{network.digest}-490ad5ba"


_CARD = {
    **tiny().to_dict(),
    "architecture": {
        "rank": 3,
        "classes": 4,
        "channels": 2,
        "convolutions": [1],
        "bottom": 1,
        "kernel": 3,
        "dropout": 0.05,
    },
    "frame": {"medial_first": False, "crop": None, "percentile": 85.0, "shrink": [1, 1, 1]},
}


@pytest.mark.parametrize("spacing", [[0.7, 0.4], [0.7, 0.4, -0.3], "wide", [0.7, 0.4, "x"]])
def test_network__rejects_an_invalid_spacing(folder, tmp_path, spacing):
    with pytest.raises(InputError, match="a card that can't be read"):
        _recarded(tmp_path / "a", folder / "a", lambda card: card.update(spacing=spacing))


@pytest.mark.parametrize(
    ("learned", "taken"),
    [
        ((0.7, 0.4, 0.3), True),
        ((0.8, 0.45, 0.265), True),
        ((0.7, 0.4, 0.36), False),
        ((1.5, 0.4, 0.3), False),
        ((0.7, 0.3, 0.3), False),
    ],
)
@pytest.mark.parametrize("member", ["a", "coarse"])
def test_segment_exam__voxels_of_another_size(folder, image, tmp_path, member, learned, taken):
    network = _recarded(
        tmp_path / "a", folder / member, lambda card: card.update(spacing=list(learned))
    )
    if taken:
        assert segment_exam(image, AFFINE, "left", [network]).labels.shape == SHAPE
        return
    with pytest.raises(
        InputError, match=r"voxels of 0.7 x 0.4 x 0.3 mm \(expected .*15%"
    ) as caught:
        segment_exam(image, AFFINE, "left", [network])
    assert caught.value.reason is Reason.MODEL_MISMATCH


# -- names of networks of one's own ---------------------------------------------------------------


class _Machine:
    def __call__(self, image):
        return image

    def predict(self, image):
        return image


def _around(value):
    def closure(image):
        return np.full((4, *image.shape), value)

    return closure


@pytest.mark.parametrize(
    "function",
    [lambda image: image, _around(1), _Machine(), _Machine().predict, partial(np.full_like, 1)],
    ids=["lambda", "closure", "object", "method", "partial"],
)
def test_own_network__rejects_functions_without_a_unique_name(function):
    with pytest.raises(InputError, match="Give a name: name='mine, version 1'"):
        OwnNetwork(function, BONES)
    assert OwnNetwork(function, BONES, name="mine").identity.startswith("mine@")


def test_own_network__identity_depends_on_name_labels_and_frame():
    made = [
        OwnNetwork(_around, BONES),
        OwnNetwork(_around, BONES, name="second"),
        OwnNetwork(_around, BONES[::-1]),
        OwnNetwork(_around, BONES, frame=CROPPED),
    ]
    assert len({network.identity for network in made}) == 4
    assert OwnNetwork(_around, list(BONES)).identity == made[0].identity
