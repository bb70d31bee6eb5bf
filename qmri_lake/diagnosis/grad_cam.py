"""Grad-CAM on the sphere: which places of a bone speak to a classifier for or against a finding."""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.diagnosis.classifier import Classifier, find_device
from qmri_lake.diagnosis.loader import SphereImages
from qmri_lake.diagnosis.map_reader import area_average, biomarkers_of
from qmri_lake.errors import InputError, NotFoundError, Reason, did_you_mean
from qmri_lake.fusion import merge
from qmri_lake.surface.layout import SIZE

__all__ = [
    "CAM_STATUS",
    "FINDINGS",
    "LAYER_OF",
    "Cams",
    "cams",
    "grad_cam",
    "of_bone",
    "patients_of",
]

FINDINGS: Mapping[str, int] = MappingProxyType({"absence": 0, "presence": 1})
"""What a CAM can speak for, and the classifier's output for it."""

CAM_STATUS: Mapping[str, int] = MappingProxyType({"mapped": 0, "zero": 1, "no_map": 2})
"""Of a CAM: there is one; nothing in the image speaks for the finding, so that it is 0 everywhere;
the exam has no map to look at."""

Gradient = Literal["mean", "pixel"]

LAYER_OF: Mapping[Gradient, Mapping[int, str]] = MappingProxyType(
    {"mean": {224: "layer4", 64: "layer3"}, "pixel": {224: "layer4", 64: "layer2"}}
)
"""The convolutional block that is looked at, by pixels of an image's side. The last one [paper] has
7 x 7 pixels for images of 224, but 2 x 2 for images of 64, which places nothing: on planted maps
its CAMs lay where chance put them. There it is the one before, 4 x 4, or with each pixel's own
gradient the one with 8 x 8. [assumption]"""
LAYERS = ("layer1", "layer2", "layer3", "layer4")
_ONE_AT_A_TIME = threading.Lock()


class Cams(NamedTuple):
    """Class activation maps of images, on the grid of the maps."""

    cam: NDArray[np.float32]
    """(image, finding, azimuth, polar), 224 x 224, at least 0; NaN where it would be 0 all over."""
    status: NDArray[np.uint8]
    """(image, finding), of `CAM_STATUS`."""


def grad_cam(
    classifier: Classifier,
    images: SphereImages | NDArray[np.float32],
    *,
    findings: Sequence[str] = tuple(FINDINGS),
    normalise: bool = True,
    gradient: Gradient = "mean",
    layer: str | None = None,
    batch: int = 64,
    device: str = "auto",
) -> Cams:
    """Compute the class activation maps of images by Grad-CAM (Selvaraju 2017).

    ReLU(sum_k a_k A_k), where A_k are the channels of a convolutional block and a_k the mean over
    its pixels of the gradient of a finding's logit. [paper] It is interpolated linearly to the grid
    of the maps: around the sphere, for their first row is the last one's neighbour. [assumption]

    Parameters
    ----------
    classifier : Classifier
    images : SphereImages, or (image, 3, azimuth, polar) float32
        Of the strategy, bone and size of the classifier.
    findings : sequence of str
        Of `FINDINGS`.
    normalise : bool
        Divide each CAM by its maximum, so that in averages exams weigh the same. [assumption]
        Otherwise it is in units of the logit.
    gradient : {"mean", "pixel"}
        ``pixel``: each pixel has its own a_k (HiResCAM, Draelos 2020). After the last block a
        ResNet averages over pixels, so that there both are the same; at a block before, the mean
        forgets at which pixel a finding was told. Neither finds all that was planted: see "See
        where classifiers look" in the documentation.
    layer : str, optional
        ``layer1`` to ``layer4``. Default: that of `LAYER_OF`.
    batch : int
        Images at a time.
    device : str
        ``auto``: a GPU where there is one.

    Returns
    -------
    Cams

    Raises
    ------
    NotFoundError
        No such finding, gradient or layer.
    InputError
        Images of another strategy, bone or size.

    Notes
    -----
    A finding is chosen by whoever asks, never by the label of the exam: see
    `qmri_lake.diagnosis.guided_thickness`.
    """
    layer = _check(classifier, findings, gradient, layer)
    _check_images(classifier, images)
    found = np.empty((len(images), len(findings), SIZE, SIZE), np.float32)
    for at in range(0, len(images), batch):
        end = min(at + batch, len(images))
        if isinstance(images, SphereImages):
            part = images.__getitems__(range(at, end)).image.numpy()
        else:
            part = images[at:end]
        found[at:end] = _activations(classifier, part, tuple(findings), gradient, layer, device)
    return _finished(found, normalise)


def cams(
    sphere: xr.Dataset,
    classifier: Classifier,
    *,
    findings: Sequence[str] = tuple(FINDINGS),
    normalise: bool = True,
    gradient: Gradient = "mean",
    layer: str | None = None,
    device: str = "auto",
) -> xr.Dataset:
    """Compute the class activation maps of spherical maps, lazily: see `grad_cam`.

    Parameters
    ----------
    sphere : Dataset
        Group ``sphere``, with or without an ``exam`` dimension: `map` [mm, mm, ms] of the
        classifier's bone, and `surface_status`. Not modified.
    classifier, findings, normalise, gradient, layer, device
        As of `grad_cam`.

    Returns
    -------
    Dataset
        `cam` (exam, finding, azimuth, polar) float32, at least 0, and `cam_status` (exam, finding),
        see `CAM_STATUS`: NaN where it is not "mapped". `surface_status` (exam, azimuth, polar) of
        the bone. `learned_from` (exam) bool, of exams with keys: the patient was in the
        classifier's training or validation set. Scalar coordinates bone and strategy; finding;
        azimuth and polar angle in degrees, of the maps.

    Raises
    ------
    NotFoundError
        No such finding, gradient or layer; maps without the bone, or a biomarker of the strategy.

    Examples
    --------
    >>> import qmri_lake as ql
    >>> sphere = lake.load("sphere", cohort)  # doctest: +SKIP
    >>> found = ql.diagnosis.cams(sphere, classifier)  # doctest: +SKIP
    >>> found.cam.sel(finding="presence").mean("exam").plot()  # doctest: +SKIP
    """
    layer = _check(classifier, findings, gradient, layer)
    mine = of_bone(sphere, classifier.bone, "cams")
    needed = biomarkers_of(classifier.strategy)
    image = merge(mine["map"], classifier.strategy)
    absent = mine["map"].sel(biomarker=needed).isnull().all(("azimuth", "polar")).any("biomarker")
    if image.chunks is not None:
        image = image.chunk(channel=-1, azimuth=-1, polar=-1)
    grid = ["azimuth", "polar"]
    cam, status = xr.apply_ufunc(
        _block, xr.DataArray(image.variable), xr.DataArray(absent.variable),
        input_core_dims=[["channel", *grid], []],
        output_core_dims=[["finding", *grid], ["finding"]],
        kwargs={"classifier": classifier, "findings": tuple(findings), "normalise": normalise,
                "gradient": gradient, "layer": layer, "device": device},
        dask="parallelized",
        output_dtypes=[np.float32, np.uint8],
        dask_gufunc_kwargs={"output_sizes": {"finding": len(findings)}},
    )  # fmt: skip
    unit = "share of the maximum" if normalise else "logit"
    words = f"Grad-CAM of {classifier.identity}, {classifier.recipe.task}"
    kept = mine[["surface_status"]].drop_vars("biomarker", errors="ignore")
    if "exam" in kept.coords:
        seen = patients_of(classifier)
        patients = [int(str(exam).partition("-")[0]) for exam in np.ravel(kept["exam"].values)]
        learned = np.isin(patients, list(seen)).reshape(kept["exam"].shape)
        kept = kept.assign(learned_from=(kept["exam"].dims, learned))
    return kept.assign(
        cam=cam.variable._replace(attrs={"long_name": words, "units": unit}),
        cam_status=status.variable._replace(
            attrs={
                "long_name": "Whether there is a CAM",
                "flag_values": list(CAM_STATUS.values()),
                "flag_meanings": " ".join(CAM_STATUS),
            }
        ),
    ).assign_coords(finding=list(findings), strategy=classifier.strategy)  # fmt: skip


def patients_of(classifier: Classifier) -> set[int]:
    """Return the patients of a classifier's training and validation sets."""
    split = classifier.card["split"]
    return {int(str(exam).partition("-")[0]) for part in split.values() for exam in part}


def of_bone(sphere: xr.Dataset, bone: str, where: str) -> xr.Dataset:
    """Return the maps of one bone, and what their pixels show."""
    absent = [name for name in ("map", "surface_status") if name not in sphere]
    if absent or "bone" not in sphere["map"].dims:
        raise NotFoundError(
            f"no {absent[0]}" if absent else "maps without the dimension bone",
            expected="group sphere", where=where, todo="Load it: lake.load('sphere', ...).",
        )  # fmt: skip
    bones = [str(name) for name in sphere["bone"].values]
    if bone not in bones:
        raise NotFoundError(f"no maps of the {bone}", expected=", ".join(bones), where=where)
    return sphere[["map", "surface_status"]].sel(bone=bone)


def _block(
    image: NDArray[np.float32],
    absent: NDArray[np.bool_],
    *,
    classifier: Classifier,
    findings: tuple[str, ...],
    normalise: bool,
    gradient: Gradient,
    layer: str,
    device: str,
) -> Cams:
    """Take a block of exams, or one exam without that dimension."""
    here = np.atleast_1d(~np.asarray(absent))
    images = image.reshape(-1, *image.shape[-3:])[here]
    small = area_average(np.ascontiguousarray(images, np.float32), classifier.recipe.size)
    cam = np.full((len(here), len(findings), SIZE, SIZE), np.nan, np.float32)
    status = np.full((len(here), len(findings)), CAM_STATUS["no_map"], np.uint8)
    if here.any():
        cam[here], status[here] = grad_cam(
            classifier, small, findings=findings, normalise=normalise, gradient=gradient,
            layer=layer, device=device,
        )  # fmt: skip
    return Cams(cam, status) if np.ndim(absent) else Cams(cam[0], status[0])


def _check(
    classifier: Classifier, findings: Sequence[str], gradient: Gradient, layer: str | None
) -> str:
    """Return the layer to look at, that or the default one; refuse names that are none."""
    asked: tuple[tuple[Sequence[str], Collection[str], str], ...] = (
        (findings, FINDINGS, "finding"),
        ([gradient], LAYER_OF, "gradient"),
        ([] if layer is None else [layer], LAYERS, "layer"),
    )
    for names, known, what in asked:
        for name in names:
            if name not in known:
                raise NotFoundError(
                    f"no {what} {name!r}", expected=f"one of {', '.join(known)}", where="grad_cam",
                    todo=did_you_mean(str(name), known),
                )  # fmt: skip
    return LAYER_OF[gradient][classifier.recipe.size] if layer is None else layer


def _check_images(classifier: Classifier, images: SphereImages | NDArray[np.float32]) -> None:
    size = classifier.recipe.size
    if isinstance(images, SphereImages):
        found = f"{images.strategy} images of the {images.bone}, {images.size} pixels"
        expected = f"{classifier.strategy} images of the {classifier.bone}, {size} pixels"
    else:
        found = f"images of shape {images.shape}"
        expected = f"images of shape {(len(images), 3, size, size)}"
    if found != expected:
        raise InputError(
            found, expected=expected, where=classifier.identity, reason=Reason.MODEL_MISMATCH
        )


def _finished(cam: NDArray[np.float32], normalise: bool) -> Cams:
    top = cam.max(axis=(-2, -1))
    zero = top == 0
    cam[zero] = np.nan
    if normalise:
        cam /= np.where(zero, 1, top)[..., None, None]
    return Cams(cam, np.where(zero, CAM_STATUS["zero"], CAM_STATUS["mapped"]).astype(np.uint8))


def _activations(
    classifier: Classifier,
    images: NDArray[np.float32],
    findings: tuple[str, ...],
    gradient: Gradient,
    layer: str,
    device: str,
) -> NDArray[np.float32]:
    """Return what speaks for each finding, before it is finished."""
    import torch

    where = find_device(device)
    # One at a time: MONAI keeps what passes through the layer in the model, which threads share.
    with _ONE_AT_A_TIME:
        looking = _looking(classifier, gradient, layer, str(where))
        seen = torch.from_numpy(np.ascontiguousarray(images)).to(where)
        found = [looking(x=seen, class_idx=FINDINGS[name])[:, 0].detach() for name in findings]
    stacked: NDArray[np.float32] = torch.stack(found, dim=1).cpu().numpy()
    return stacked


@functools.lru_cache(maxsize=3)
def _looking(classifier: Classifier, gradient: Gradient, layer: str, device: str) -> Any:
    """Return MONAI's Grad-CAM of a classifier; of a few, they stay for the next block of exams."""
    import torch
    from monai.visualize.class_activation_maps import GradCAM

    class ByPixel(GradCAM):
        def compute_map(self, x: Any, class_idx: Any = None, **options: Any) -> Any:  # type: ignore[override]
            at = options.pop("layer_idx", -1)
            _, active, gradient = self.nn_module(x, class_idx=class_idx, **options)
            return torch.relu((gradient[at] * active[at]).sum(1, keepdim=True))

    model = classifier.model().requires_grad_(False).to(device)
    # Gradients start at this layer: nothing before it is kept for them, or computed.
    model.get_submodule(layer).register_forward_pre_hook(
        lambda _, inputs: (inputs[0].requires_grad_(),)
    )
    return (GradCAM if gradient == "mean" else ByPixel)(
        nn_module=model, target_layers=layer, upsampler=lambda _: _on_maps, postprocessing=_as_it_is
    )


def _on_maps(cam: Any) -> Any:
    """Interpolate (image, 1, rows, columns) to the grid of the maps; rows go around the sphere."""
    import torch

    rows = cam.shape[2]
    each = SIZE // rows  # whatever the layer, its rows divide 224
    around = torch.nn.functional.pad(cam, (0, 0, 1, 1), mode="circular")
    larger = torch.nn.functional.interpolate(
        around, size=(each * (rows + 2), SIZE), mode="bilinear", align_corners=False
    )
    return larger[:, :, each:-each]


def _as_it_is(cam: Any) -> Any:
    return cam
