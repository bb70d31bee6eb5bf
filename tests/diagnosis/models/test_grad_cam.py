"""Class activation maps: what they are by hand, where they wrap, and what they find."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import qmri_lake as ql
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.models.classifier import Classifier
from qmri_lake.diagnosis.models.grad_cam import CAM_STATUS, DEFAULT_LAYERS, FINDINGS, grad_cam
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.lake import Lake
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from tests.conftest import Judge
from tests.diagnosis.lesion_lake import make_lesion_lake, random_classifier, train_on

WITHOUT = 3
"""Row of an exam whose femur has no thickness."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake, _ = make_lesion_lake(tmp_path_factory.mktemp("cam") / "oai.lake", 6)

    def spoil(session):
        root = open_root(session.store, "r+")
        root["sphere/map"][WITHOUT, 2] = np.nan

    commit(lake.repo, spoil, "Take a map away")
    return lake.refresh()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return random_classifier(tmp_path_factory.mktemp("models") / "femur")


def images_of(lake: Lake, size: int = 64, bone: str = "femur", rows: int = 6) -> SphereImages:
    kept = [str(e) for row, e in enumerate(lake.exams["exam"][:rows]) if row != WITHOUT]
    cohort = lake.cohort().of_exams(kept, "has a map")
    return SphereImages(cohort, strategy="thickness", bone=bone, size=size)


def by_hand(
    model: torch.nn.Module, image: torch.Tensor, layer: str, output: int, gradient: str = "mean"
) -> np.ndarray:
    """ReLU(sum a_k A_k), a_k the gradient of a logit, averaged or by pixel: (n, rows, columns)."""
    kept = {}
    hook = model.get_submodule(layer).register_forward_hook(
        lambda _, __, out: kept.__setitem__("a", out)
    )
    logit = model(image)[:, output].sum()
    hook.remove()
    (weight,) = torch.autograd.grad(logit, kept["a"])
    if gradient == "mean":
        weight = weight.mean(dim=(2, 3), keepdim=True)
    return torch.relu((weight * kept["a"]).sum(1)).detach().numpy()


def around(cam: np.ndarray) -> np.ndarray:
    """Bilinear interpolation: (n, rows, columns) to (n, 224, 224); rows are cyclic."""
    rows, columns = cam.shape[1:]
    i = (np.arange(224) + 0.5) * rows / 224 - 0.5
    j = np.clip((np.arange(224) + 0.5) * columns / 224 - 0.5, 0, columns - 1)
    low, left = np.floor(i).astype(int), np.minimum(np.floor(j).astype(int), columns - 2)
    cam = (
        cam[:, low % rows] * (1 - i + low)[:, None] + cam[:, (low + 1) % rows] * (i - low)[:, None]
    )
    return cam[..., left] * (1 - j + left) + cam[..., left + 1] * (j - left)


@pytest.mark.parametrize(
    ("gradient", "size", "layer", "rows"),
    [("mean", 224, "layer4", 7), ("mean", 64, "layer3", 4), ("pixel", 64, "layer2", 8)],
)
def test_grad_cam__equals_its_equation(
    lake: Lake, tmp_path: Path, gradient: str, size: int, layer: str, rows: int
) -> None:
    assert DEFAULT_LAYERS[gradient][size] == layer
    classifier = random_classifier(tmp_path / "femur", size=size)
    images = images_of(lake, size, rows=2)
    found = grad_cam(classifier, images, normalise=False, gradient=gradient, batch=1)
    assert found.cam.shape == (len(images), 2, 224, 224)
    model, image = classifier.model(), images.__getitems__(range(len(images))).image
    some = 0
    for finding, output in FINDINGS.items():
        k = list(FINDINGS).index(finding)
        expected = by_hand(model, image, layer, output, gradient)
        assert expected.shape[1:] == (rows, rows)
        zero = expected.max(axis=(1, 2)) == 0
        np.testing.assert_array_equal(found.status[:, k], zero * CAM_STATUS["zero"])
        np.testing.assert_allclose(
            found.cam[~zero, k], around(expected[~zero]), rtol=1e-4, atol=1e-5 * expected.max()
        )
        some += (~zero).sum()
    assert some > 0
    if layer == "layer4":
        # The same at all pixels, so that either gradient gives the published map.
        own = grad_cam(classifier, images, normalise=False, gradient="pixel")
        np.testing.assert_allclose(own.cam, found.cam, rtol=1e-3, atol=1e-6)
        # Pooled and then linear: the weights of that layer, over pixels
        kept = {}
        model.layer4.register_forward_hook(lambda _, __, out: kept.__setitem__("a", out))
        model(image)
        weighted = torch.einsum("k,nkij->nij", model.fc.weight[1], kept["a"]).detach().numpy()
        np.testing.assert_allclose(
            by_hand(model, image, layer, 1), np.maximum(weighted, 0) / rows**2, rtol=1e-3, atol=1e-6
        )


def test_grad_cam__normalised_is_the_same_map_up_to_1(lake: Lake, classifier: Classifier) -> None:
    images = images_of(lake)
    plain, scaled = (grad_cam(classifier, images, normalise=n) for n in (False, True))
    np.testing.assert_array_equal(plain.status, scaled.status)
    top = plain.cam.max(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(scaled.cam, plain.cam / top, rtol=1e-6)
    array = images.__getitems__(range(len(images))).image.numpy()
    np.testing.assert_array_equal(grad_cam(classifier, array).cam, scaled.cam)


def test_grad_cam__without_support_is_nan_with_a_status(lake: Lake, tmp_path: Path) -> None:
    """Outputs of the last block are at least 0, so negative weights support nothing."""
    head = np.stack([np.full(512, 0.1), np.full(512, -0.1)])
    classifier = random_classifier(tmp_path / "femur", head=head)
    found = grad_cam(classifier, images_of(lake), layer="layer4")
    absence, presence = found.cam[:, 0], found.cam[:, 1]
    assert np.isnan(presence).all()
    assert (found.status[:, 1] == CAM_STATUS["zero"]).all()
    assert np.isfinite(absence).all()
    assert (absence >= 0).all()
    assert (found.status[:, 0] == CAM_STATUS["mapped"]).all()


def test_cams__are_lazy_and_those_of_the_loader(
    lake: Lake, classifier: Classifier, tmp_path: Path
) -> None:
    sphere = lake.load("sphere")

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        found = ql.diagnosis.cams(sphere, classifier)
    assert found["cam"].dims == ("exam", "finding", "azimuth", "polar")
    assert set(sphere.data_vars) == set(lake.load("sphere").data_vars)
    assert found["bone"].item() == "femur"
    made = found.compute()
    assert (made["cam_status"][WITHOUT] == CAM_STATUS["no_map"]).all()
    assert made["cam"][WITHOUT].isnull().all()
    others = [row for row in range(6) if row != WITHOUT]
    expected = grad_cam(classifier, images_of(lake))
    np.testing.assert_allclose(made["cam"][others], expected.cam, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made["cam_status"][others], expected.status)
    np.testing.assert_array_equal(made["azimuth"], sphere["azimuth"])
    np.testing.assert_array_equal(made["polar_angle"], sphere["polar_angle"].sel(bone="femur"))
    assert not made["learned_from"].any()
    exam = str(lake.exams["exam"][1])
    assert made.sel(exam=exam)["cam"].equals(made["cam"][1])
    other = random_classifier(tmp_path / "learned", learned_from=(exam,))
    learned = ql.diagnosis.cams(sphere, other)["learned_from"]
    assert learned.values.tolist() == [False, True, *[False] * 4]
    one = ql.diagnosis.cams(sphere.isel(exam=1), classifier, findings=["presence"]).compute()
    assert one["cam"].dims == ("finding", "azimuth", "polar")
    np.testing.assert_allclose(one["cam"][0], made["cam"][1, 1], rtol=1e-4, atol=1e-5)


def test_cams__refuse_images_of_another_kind(lake: Lake, classifier: Classifier) -> None:
    sphere = lake.load("sphere")
    with pytest.raises(InputError, match=r"thickness images of the tibia.*images of the femur"):
        grad_cam(classifier, images_of(lake, bone="tibia"))
    with pytest.raises(InputError, match=r"shape \(2, 3, 8, 8\).*\(2, 3, 64, 64\)"):
        grad_cam(classifier, np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(NotFoundError, match=r"no finding 'presense'.*Did you mean 'presence'"):
        ql.diagnosis.cams(sphere, classifier, findings=["presense"])
    with pytest.raises(NotFoundError, match=r"no gradient 'pixels'.*Did you mean 'pixel'"):
        ql.diagnosis.cams(sphere, classifier, gradient="pixels")
    with pytest.raises(NotFoundError, match="no layer 'layer5'"):
        ql.diagnosis.cams(sphere, classifier, layer="layer5")
    with pytest.raises(NotFoundError, match="no maps of the femur"):
        ql.diagnosis.cams(sphere.isel(bone=[0, 1]), classifier)
    with pytest.raises(NotFoundError, match="no surface_status"):
        ql.diagnosis.cams(sphere.drop_vars("surface_status"), classifier)


def test_mean_cams__average_correctly_classified_exams(lake: Lake, classifier: Classifier) -> None:
    cams = ql.diagnosis.cams(lake.load("sphere"), classifier).compute()
    cams["cam_status"][4, 1], cams["cam"][4, 1] = CAM_STATUS["zero"], np.nan
    label, probability = [1, 1, 0, 0, 1, 0], [0.9, 0.5, 0.1, 0.2, 0.7, 0.6]
    mean = ql.diagnosis.mean_cams(cams, label, probability)
    assert mean["exams"].sel(finding="presence") == 2  # rows 0 and 1; 4 has no CAM
    assert mean["exams"].sel(finding="absence") == 1  # row 2; 3 has no map, 5 is misclassified
    assert mean["left_out"].values.tolist() == [1, 1]
    expected = cams["cam"][[0, 1], 1].mean("exam")
    np.testing.assert_allclose(mean["mean"].sel(finding="presence"), expected, rtol=1e-6)
    share = expected[112:].sum() / expected.sum()
    assert float(mean["medial_share"].sel(finding="presence")) == pytest.approx(float(share))
    assert mean["articular"].max() == 1
    assert mean["articular"].min() == 0
    none = ql.diagnosis.mean_cams(cams, [0] * 6, [0.9] * 6)
    assert none["exams"].values.tolist() == [0, 0]
    assert none["mean"].isnull().all()
    assert none["medial_share"].isnull().all()


def test_mean_cams__refuses_other_exams_and_labels(lake: Lake, classifier: Classifier) -> None:
    cams = ql.diagnosis.cams(lake.load("sphere"), classifier)
    exams = [str(exam) for exam in lake.exams["exam"]]
    with pytest.raises(InputError, match="labels other than 0 and 1"):
        ql.diagnosis.mean_cams(cams, [2] * 6, [0.5] * 6)
    with pytest.raises(InputError, match="outside 0 to 1"):
        ql.diagnosis.mean_cams(cams, [1] * 6, [50] * 6)
    with pytest.raises(InputError, match=r"label of shape \(5,\)"):
        ql.diagnosis.mean_cams(cams, [1] * 5, [0.5] * 6)
    with pytest.raises(InputError, match="index of label differs"):
        ql.diagnosis.mean_cams(cams, pd.Series([1] * 6, exams[::-1]), [0.5] * 6)
    with pytest.raises(NotFoundError, match="no cam"):
        ql.diagnosis.mean_cams(lake.load("sphere"), [1] * 6, [0.5] * 6)


def test_medial_share__is_what_lies_above_azimuth_0() -> None:
    azimuth = np.array([-135.0, -45.0, 45.0, 135.0])
    cam = xr.DataArray(
        [[[1.0, 0.0], [0.0, 1.0], [3.0, 1.0], [2.0, 0.0]], np.zeros((4, 2))],
        dims=("exam", "azimuth", "polar"),
        coords={"azimuth": azimuth},
    )
    share = ql.diagnosis.medial_share(cam)
    assert share[0] == 6 / 8
    assert np.isnan(share[1])


@pytest.mark.accept
@pytest.mark.timeout(1800)
def test_grad_cam__finds_a_known_lesion(tmp_path: Path, judge: Judge) -> None:
    shares: dict[str, list[float]] = {"planted": [], "shuffled": [], "planted, layer4": []}
    for seed in range(6):
        lake, label = make_lesion_lake(tmp_path / f"{seed}.lake", 120, seed=seed)
        shuffled = pd.Series(np.random.default_rng(seed).permutation(label), label.index)
        for name, given in (("planted", label), ("shuffled", shuffled)):
            folder = tmp_path / f"{name}-{seed}"
            classifier, test = train_on(lake, given, folder, seed=seed, epochs=6)
            probability = classifier.predict(test)
            sphere = lake.load("sphere", lake.cohort().of_exams(test.exams, "test"))
            for layer in (None, "layer4")[: 1 + (name == "planted")]:
                cams = ql.diagnosis.cams(sphere, classifier, layer=layer)
                if name == "planted":
                    mean = ql.diagnosis.mean_cams(cams, test.label, probability)
                    share = mean["medial_share"].sel(finding="presence")
                else:  # correctly classified exams are a random subset
                    share = ql.diagnosis.medial_share(cams["cam"].mean("exam")).mean("finding")
                shares[name + (f", {layer}" if layer else "")].append(float(share))
    mean = {name: np.nanmean(values) for name, values in shares.items()}
    judge(
        "Grad-CAM / medial patch of thin cartilage, 120 maps of 64 x 64, 6 seeds",
        required="presence >= 0.6 of its mass medial; labels shuffled 0.5 +- 0.1",
        measured="; ".join(
            f"{name} {mean[name]:.2f} ({', '.join(f'{v:.2f}' for v in values)})"
            for name, values in shares.items()
        ),
        passed=bool(mean["planted"] >= 0.6 and abs(mean["shuffled"] - 0.5) <= 0.1),
    )
