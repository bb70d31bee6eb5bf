"""The input of a network, and the exactness of the inverse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmri_lake.errors import InputError, Reason
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.models.network_view import NetworkView

sizes = st.tuples(*[st.integers(1, 9)] * 3)


def affine(x: float) -> np.ndarray:
    """Sagittal slices a bit oblique, x mm along LPS x from one to the next."""
    return np.array([[x, 0, 0.05, 3], [0.1, 0, 0.4, 5], [0, -0.4, 0, 7], [0, 0, 0, 1.0]])


def one_hot(labels: np.ndarray, n: int) -> np.ndarray:
    return (labels == np.arange(n).reshape(-1, 1, 1, 1)).astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    sizes,
    st.none() | sizes,
    st.booleans(),
    st.sampled_from([-0.7, 0.7]),
    st.sampled_from(["left", "right"]),
)
def test_inverse__restores_labels(
    shape: tuple[int, int, int],
    crop: tuple[int, int, int] | None,
    medial_first: bool,
    x: float,
    side: str,
) -> None:
    frame = NetworkView(medial_first, crop)
    labels = np.random.default_rng(0).integers(1, 5, shape).astype(np.uint8)
    seen = frame.transform_labels(labels, affine(x), side)
    assert seen.shape == frame.size(shape) == (crop or shape)

    inside = frame.inverse_labels(np.ones_like(seen), shape, affine(x), side) == 1
    assert inside.sum() == np.prod([min(n, c) for n, c in zip(shape, crop or shape, strict=True)])
    restored = frame.inverse_labels(seen, shape, affine(x), side)
    np.testing.assert_array_equal(restored, np.where(inside, labels, 0))
    assert restored.dtype == np.uint8

    probabilities = frame.inverse(one_hot(seen, 5), shape, affine(x), side)
    np.testing.assert_array_equal(probabilities, one_hot(restored, 5))
    # And forth again: nothing but the padding can have been lost.
    np.testing.assert_array_equal(frame.transform_labels(restored, affine(x), side), seen)


@pytest.mark.parametrize(
    ("x", "side", "first"),
    [(0.7, "right", 4), (-0.7, "right", 0), (0.7, "left", 0), (-0.7, "left", 4)],
)
def test_transform__medial_slice_is_first(x: float, side: str, first: int) -> None:
    """LPS x grows towards the left: medial of a right knee, lateral of a left one."""
    image = np.arange(1.0, 6.0)[:, None, None] * np.ones((5, 3, 3))
    seen = NetworkView(True, None, None).transform(image, affine(x), side)
    assert seen[0, 0, 0] == first + 1
    assert seen[-1, 0, 0] == 5 - first
    kept = NetworkView(False, None, None).transform(image, affine(x), side)
    np.testing.assert_array_equal(kept, image)


def test_transform__both_knees_of_a_patient_are_similar() -> None:
    """Bones of a left and a right knee overlap more than with one of them reversed."""
    frame = NetworkView(True, (32, 90, 90), None)
    seen = []
    for exam in exams(2)[:2]:
        truth = knee(exam, shape=(32, 96, 96))
        seen.append(frame.transform_labels(truth.dess_bone, truth.dess_affine, exam.side) > 0)
    assert {exam.side for exam in exams(2)[:2]} == {"left", "right"}
    alike = np.count_nonzero(seen[0] & seen[1])
    mirrored = np.count_nonzero(seen[0] & seen[1][::-1])
    assert alike > 1.02 * mirrored


def test_transform__centre_crop_by_hand() -> None:
    labels = np.arange(7 * 6 * 5).reshape(7, 6, 5)
    seen = NetworkView(False, (4, 3, 5)).transform_labels(labels, affine(0.7), "left")
    np.testing.assert_array_equal(seen, labels[1:5, 1:4])
    padded = NetworkView(False, (7, 6, 8)).transform_labels(labels, affine(0.7), "left")
    np.testing.assert_array_equal(padded[..., 1:6], labels)
    assert not padded[..., [0, 6, 7]].any()


def test_transform__divides_by_the_percentile_of_the_crop() -> None:
    image = np.full((4, 6, 6), 1000.0)
    image[:, 1:5, 1:5] = np.arange(64).reshape(4, 4, 4)
    # The padding of the slices must not pull the percentile down, nor what was cropped up.
    seen = NetworkView(True, (10, 4, 4)).transform(image, affine(0.7), "left")
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen[3:7].ravel(), np.arange(64) / 53.55, rtol=1e-6)
    assert not seen[[0, 1, 2, 7, 8, 9]].any()
    raw = NetworkView(True, (10, 4, 4), None).transform(image, affine(0.7), "left")
    assert raw.max() == 63


def test_transform__does_not_modify_its_input() -> None:
    image = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    kept = image.copy()
    NetworkView(False, None).transform(image, affine(0.7), "left")[:] = 7
    np.testing.assert_array_equal(image, kept)


def test_transform__rejects_an_image_without_signal() -> None:
    image = np.zeros((4, 5, 6), np.float32)
    with pytest.raises(InputError, match="0 as percentile 85") as caught:
        NetworkView(False, None).transform(image, affine(0.7), "left")
    assert caught.value.reason is Reason.UNREADABLE_VALUE
    assert not NetworkView(False, None, None).transform(image, affine(0.7), "left").any()


def test_transform__rejects_an_image_that_is_not_finite() -> None:
    image = np.ones((4, 5, 6), np.float32)
    image[0, 0, :2] = np.nan, np.inf
    with pytest.raises(InputError, match="2 voxels that are not finite"):
        NetworkView(False, None).transform(image, affine(0.7), "left")


def test_inverse__of_a_coarse_view_is_linear_in_log_odds() -> None:
    # A boundary that a sure network puts beside a block's centre stays there.
    odds = np.array([-6.0, -2.0, 4.0])
    coarse = 1 / (1 + np.exp(-odds))
    seen = np.stack([1 - coarse, coarse])[:, :, None, None]
    frame = NetworkView(False, None, None, shrink=(4, 1, 1))
    fine = frame.inverse(seen, (12, 1, 1), affine(0.7), "left")[:, :, 0, 0]
    np.testing.assert_allclose(fine.sum(axis=0), 1, rtol=1e-6)
    at = np.clip((np.arange(12) + 0.5) / 4 - 0.5, 0, 2)
    np.testing.assert_allclose(np.log(fine[1] / fine[0]), np.interp(at, range(3), odds), atol=1e-4)
    certain = frame.inverse(np.eye(2)[:, [0, 0, 1], None, None], (12, 1, 1), affine(0.7), "left")
    assert np.isfinite(certain).all()
    assert certain[0, 0] == pytest.approx(1, abs=2e-4)


def test_inverse__rejects_another_size() -> None:
    with pytest.raises(InputError, match=r"an array of shape \(4, 5, 6\) \(expected \(3, 3, 3\)"):
        NetworkView(False, (3, 3, 3)).inverse(np.ones((2, 4, 5, 6)), (4, 5, 6), affine(0.7), "left")


def test_transform__rejects_slices_that_are_not_sagittal() -> None:
    coronal = np.eye(4)[[1, 0, 2, 3]]
    with pytest.raises(InputError, match="expected sagittal slices") as caught:
        NetworkView(True, None).transform_labels(np.zeros((2, 3, 4), np.uint8), coronal, "left")
    assert caught.value.reason is Reason.INCONSISTENT_GEOMETRY
    with pytest.raises(InputError, match="knee 'L'"):
        NetworkView(True, None).transform_labels(np.zeros((2, 3, 4), np.uint8), affine(0.7), "L")


def test_network_view__round_trip_through_json() -> None:
    frame = NetworkView(True, (140, 344, 344))
    assert NetworkView(**json.loads(json.dumps(dataclasses.asdict(frame)))) == frame


@pytest.mark.parametrize(
    "values", [(True, (1, 2)), (True, (0, 2, 3)), (True, None, 0), (True, None, 101)]
)
def test_network_view__rejects_invalid_values(values: tuple) -> None:
    with pytest.raises(InputError):
        NetworkView(*values)
