"""An nnU-Net as a member of an ensemble: a stand-in with the interface of its predictor."""

from __future__ import annotations

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError
from qmri_lake.segmentation.models.ensemble import segment_exam
from qmri_lake.segmentation.models.network_view import NetworkView
from qmri_lake.tissues import BONE

SHAPE = (6, 10, 8)
AFFINE = np.diag([0.7, 0.4, 0.3, 1.0])
THEIRS = ("background", "patella", "femur", "tibia")


class Predictor:
    """Takes and returns what `nnUNetPredictor.predict_single_npy_array` does, and no more.

    Its class 1 is where the signal is above 3, class 2 above 2, class 3 above 1.
    """

    def __init__(self) -> None:
        self.calls = []

    def predict_single_npy_array(
        self,
        input_image,
        image_properties,
        segmentation_previous_stage=None,
        output_file_truncated=None,
        save_or_return_probabilities=False,
    ):
        assert input_image.ndim == 4
        assert input_image.dtype == np.float32
        assert input_image.flags.c_contiguous
        assert output_file_truncated is None
        self.calls.append((input_image.shape, image_properties))
        band = np.clip(4 - np.floor(input_image[0]), 0, 4).astype(int) % 4
        segmentation = band.astype(np.uint8)
        if not save_or_return_probabilities:
            return segmentation
        return segmentation, np.eye(4, dtype=np.float32)[band].transpose(3, 0, 1, 2)


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(0, 4, SHAPE).astype(np.float32)


def expected(image):
    """Classes by signal, as label values of this package."""
    ours = np.array([BONE[name] for name in THEIRS], np.uint8)
    return ours[np.clip(4 - np.floor(image), 0, 4).astype(int) % 4]


def test_nnunet__gets_signal_and_spacing_and_returns_ordered_classes(image):
    predictor = Predictor()
    network = ql.segmentation.NnUNet(predictor, labels=THEIRS, name="Dataset 7, fold 0")
    labels, uncertainty = segment_exam(image, AFFINE, "left", [network])
    assert np.array_equal(labels, expected(image))
    assert len(np.unique(labels)) == 4
    assert uncertainty is None
    ((shape, properties),) = predictor.calls
    assert shape == (1, *SHAPE)
    np.testing.assert_allclose(properties["spacing"], [0.7, 0.4, 0.3])
    assert all(type(mm) is float for mm in properties["spacing"])
    assert network.task == "bones"
    assert network.identity.startswith("Dataset 7, fold 0@")


def test_nnunet__gets_the_spacing_of_the_transformed_image(image):
    predictor = Predictor()
    frame = NetworkView(medial_first=True, crop=None, percentile=None, shrink=(1, 2, 2))
    segment_exam(
        image,
        AFFINE,
        "right",
        [ql.segmentation.NnUNet(predictor, THEIRS, frame=frame, name="theirs")],
    )
    ((shape, properties),) = predictor.calls
    assert shape == (1, 6, 5, 4)
    np.testing.assert_allclose(properties["spacing"], [0.7, 0.8, 0.6])


def test_nnunet__in_an_ensemble(image):
    def sure(image):
        return np.stack([np.ones_like(image), *[np.zeros_like(image)] * 3])

    members = [
        ql.segmentation.NnUNet(Predictor(), THEIRS, name="theirs"),
        *[ql.segmentation.OwnNetwork(sure, list(BONE))] * 2,
    ]
    labels, uncertainty = segment_exam(image, AFFINE, "left", members)
    assert (labels == 0).all()
    np.testing.assert_allclose(uncertainty, np.where(expected(image) == 0, 0, 1 / 3), rtol=1e-6)


def test_nnunet__a_class_is_missing():
    with pytest.raises(InputError, match="no class for patella"):
        ql.segmentation.NnUNet(Predictor(), labels=["background", "femur", "tibia"], name="theirs")


def test_nnunet__no_spacing(image):
    with pytest.raises(InputError, match=r"no spacing \(expected a spacing of three lengths"):
        ql.segmentation.NnUNet(Predictor(), THEIRS, name="theirs").predict(image)


def test_nnunet__more_classes_than_labels(image):
    class Five(Predictor):
        def predict_single_npy_array(self, *arguments):
            segmentation, probabilities = super().predict_single_npy_array(*arguments)
            return segmentation, np.concatenate([probabilities, probabilities[:1] * 0])

    with pytest.raises(InputError, match=r"shape \(5, 6, 10, 8\) \(expected \(4, 6, 10, 8\)"):
        segment_exam(image, AFFINE, "left", [ql.segmentation.NnUNet(Five(), THEIRS, name="five")])
