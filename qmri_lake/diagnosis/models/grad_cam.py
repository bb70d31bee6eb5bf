"""Compute Grad-CAM on the sphere: the regions of a bone that support a classifier's finding."""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from qmri_lake.core.text import did_you_mean
from qmri_lake.diagnosis.models.batches import ImageSet
from qmri_lake.diagnosis.models.classifier import Classifier, find_device
from qmri_lake.diagnosis.models.images import area_average
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.fusion import biomarkers_of, merge
from qmri_lake.surface.spherical_grid import SIZE

if TYPE_CHECKING:
    import torch
    from monai.visualize.class_activation_maps import GradCAM

__all__ = [
    "CAM_STATUS",
    "DEFAULT_LAYERS",
    "FINDINGS",
    "CamStatus",
    "Cams",
    "cams",
    "grad_cam",
    "select_bone",
    "training_patients",
]

FINDINGS: Mapping[str, int] = MappingProxyType({"absence": 0, "presence": 1})
"""Findings that a CAM can explain, with the index of the classifier's output for each."""


class CamStatus(IntEnum):
    """Whether an image has a CAM, or the reason why it has none."""

    MAPPED = 0
    ZERO = 1
    """No pixel supports the finding: the CAM would be 0 everywhere."""
    NO_MAP = 2
    """The exam has no map."""


CAM_STATUS: Mapping[str, int] = MappingProxyType(
    {status.name.lower(): int(status) for status in CamStatus}
)
"""Flag values of the variable `cam_status`, by the names of `CamStatus`."""

Gradient = Literal["mean", "pixel"]

DEFAULT_LAYERS: Mapping[Gradient, Mapping[int, str]] = MappingProxyType(
    {"mean": {224: "layer4", 64: "layer3"}, "pixel": {224: "layer4", 64: "layer2"}}
)
"""Convolutional block of the CAM, by gradient and size of the images.

The last block [paper] has 7 x 7 pixels for images of 224 x 224 pixels, but only 2 x 2 pixels for
images of 64 x 64 pixels. For such small images, CAMs of synthetic maps from the last block showed
no relation to the known position of the finding. Therefore the default for small images is an
earlier block: with ``mean`` the block with 4 x 4 pixels, with ``pixel`` the block with 8 x 8
pixels. [assumption]"""
LAYERS = ("layer1", "layer2", "layer3", "layer4")
_LOCK = threading.Lock()


class Cams(NamedTuple):
    """Class activation maps (CAMs) of images, on the grid of the maps."""

    cam: NDArray[np.float32]
    """CAMs (image, finding, azimuth, polar) of 224 x 224 pixels, at least 0. A CAM that would be 0
    everywhere is NaN."""
    status: NDArray[np.uint8]
    """(image, finding), values of `CamStatus`."""


def grad_cam(
    classifier: Classifier,
    images: ImageSet | NDArray[np.float32],
    *,
    findings: Sequence[str] = tuple(FINDINGS),
    normalise: bool = True,
    gradient: Gradient = "mean",
    layer: str | None = None,
    batch: int = 64,
    device: str = "auto",
) -> Cams:
    """Compute the class activation maps of images by Grad-CAM (Selvaraju 2017).

    The CAM is ReLU(sum_k a_k A_k), where A_k is channel k of a convolutional block, and a_k is the
    gradient of a finding's logit with respect to A_k, averaged over pixels. [paper] The CAM is
    interpolated linearly to the grid of the maps; the first and last rows are neighbours on the
    sphere. [assumption]

    Parameters
    ----------
    classifier : Classifier
    images : ImageSet, or (image, 3, azimuth, polar) float32
        Images with the strategy, bone and size of the classifier.
    findings : sequence of str
        Names in `FINDINGS`.
    normalise : bool
        Divide each CAM by its maximum, so that exams have equal weight in averages [assumption].
        Otherwise CAMs have the unit of the logit.
    gradient : {"mean", "pixel"}
        ``mean``: a_k is averaged over pixels. ``pixel``: each pixel has its own a_k (HiResCAM,
        Draelos 2020). At the last block both give the same CAM, since a ResNet averages over pixels
        after this block. At earlier blocks the mean does not contain the position of the gradient.
        Neither method detects every known finding of synthetic maps: see the documentation of
        Grad-CAM.
    layer : str, optional
        ``layer1`` to ``layer4``. Default: see `DEFAULT_LAYERS`.
    batch : int
        Images per batch.
    device : str
        ``auto`` selects a GPU if there is one.

    Returns
    -------
    Cams

    Raises
    ------
    NotFoundError
        If a finding, gradient or layer is unknown.
    InputError
        If the images have another strategy, bone or size.

    Notes
    -----
    The caller chooses the findings. They do not depend on the label of an exam: see
    `qmri_lake.diagnosis.guided_thickness`.
    """
    layer = _check(classifier, findings, gradient, layer)
    _check_images(classifier, images)
    found = np.empty((len(images), len(findings), SIZE, SIZE), np.float32)
    for at in range(0, len(images), batch):
        end = min(at + batch, len(images))
        if not isinstance(images, np.ndarray):
            part = images.__getitems__(range(at, end)).image.numpy()
        else:
            part = images[at:end]
        found[at:end] = _activations(classifier, part, tuple(findings), gradient, layer, device)
    return _normalised(found, normalise)


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
        classifier's bone, and `surface_status`. The dataset is not modified.
    classifier, findings, normalise, gradient, layer, device
        See `grad_cam`.

    Returns
    -------
    Dataset
        `cam` (exam, finding, azimuth, polar) float32, at least 0, NaN unless the status is
        "mapped"; `cam_status` (exam, finding), values of `CamStatus`; `surface_status` (exam,
        azimuth, polar) of the bone. If the exams have keys, also `learned_from` (exam) bool:
        whether the patient was in the classifier's training or validation set. Coordinates: bone
        and strategy (scalar), finding, and azimuth and polar angle of the maps in degrees.

    Raises
    ------
    NotFoundError
        If a finding, gradient or layer is unknown, or the maps lack the bone or a biomarker of the
        strategy.

    Examples
    --------
    >>> import qmri_lake as ql
    >>> sphere = lake.load("sphere", cohort)  # doctest: +SKIP
    >>> found = ql.diagnosis.cams(sphere, classifier)  # doctest: +SKIP
    >>> found.cam.sel(finding="presence").mean("exam").plot()  # doctest: +SKIP
    """
    layer = _check(classifier, findings, gradient, layer)
    maps = select_bone(sphere, classifier.bone, "cams")
    needed = biomarkers_of(classifier.strategy)
    image = merge(maps["map"], classifier.strategy)
    absent = maps["map"].sel(biomarker=needed).isnull().all(("azimuth", "polar")).any("biomarker")
    if image.chunks is not None:
        image = image.chunk(channel=-1, azimuth=-1, polar=-1)
    grid = ["azimuth", "polar"]
    cam, status = xr.apply_ufunc(
        _block,
        xr.DataArray(image.variable),
        xr.DataArray(absent.variable),
        input_core_dims=[["channel", *grid], []],
        output_core_dims=[["finding", *grid], ["finding"]],
        kwargs={
            "classifier": classifier,
            "findings": tuple(findings),
            "normalise": normalise,
            "gradient": gradient,
            "layer": layer,
            "device": device,
        },
        dask="parallelized",
        output_dtypes=[np.float32, np.uint8],
        dask_gufunc_kwargs={"output_sizes": {"finding": len(findings)}},
    )
    unit = "share of the maximum" if normalise else "logit"
    long_name = f"Grad-CAM of {classifier.identity}, {classifier.recipe.task}"
    kept = maps[["surface_status"]].drop_vars("biomarker", errors="ignore")
    if "exam" in kept.coords:
        trained_on = training_patients(classifier)
        patients = [int(str(exam).partition("-")[0]) for exam in np.ravel(kept["exam"].values)]
        learned = np.isin(patients, list(trained_on)).reshape(kept["exam"].shape)
        kept = kept.assign(learned_from=(kept["exam"].dims, learned))
    return kept.assign(
        cam=cam.variable._replace(attrs={"long_name": long_name, "units": unit}),
        cam_status=status.variable._replace(
            attrs={
                "long_name": "Whether there is a CAM",
                "flag_values": list(CAM_STATUS.values()),
                "flag_meanings": " ".join(CAM_STATUS),
            }
        ),
    ).assign_coords(finding=list(findings), strategy=classifier.strategy)


def training_patients(classifier: Classifier) -> set[int]:
    """Return the patients of a classifier's training and validation sets."""
    split = classifier.card["split"]
    return {int(str(exam).partition("-")[0]) for part in split.values() for exam in part}


def select_bone(sphere: xr.Dataset, bone: str, where: str) -> xr.Dataset:
    """Return the maps of one bone and their surface status."""
    absent = [name for name in ("map", "surface_status") if name not in sphere]
    if absent or "bone" not in sphere["map"].dims:
        raise NotFoundError(
            f"no {absent[0]}" if absent else "maps without the dimension bone",
            expected="group sphere",
            where=where,
            todo="Load group sphere: lake.load('sphere', ...).",
        )
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
    """Compute the CAMs of a block of exams, or of one exam without the dimension ``exam``."""
    has_map = np.atleast_1d(~np.asarray(absent))
    images = image.reshape(-1, *image.shape[-3:])[has_map]
    small = area_average(np.ascontiguousarray(images, np.float32), classifier.recipe.size)
    cam = np.full((len(has_map), len(findings), SIZE, SIZE), np.nan, np.float32)
    status = np.full((len(has_map), len(findings)), CamStatus.NO_MAP, np.uint8)
    if has_map.any():
        cam[has_map], status[has_map] = grad_cam(
            classifier,
            small,
            findings=findings,
            normalise=normalise,
            gradient=gradient,
            layer=layer,
            device=device,
        )
    return Cams(cam, status) if np.ndim(absent) else Cams(cam[0], status[0])


def _check(
    classifier: Classifier, findings: Sequence[str], gradient: Gradient, layer: str | None
) -> str:
    """Return the layer, by default that of `DEFAULT_LAYERS`; raise an error for unknown names."""
    arguments: tuple[tuple[Sequence[str], Collection[str], str], ...] = (
        (findings, FINDINGS, "finding"),
        ([gradient], DEFAULT_LAYERS, "gradient"),
        ([] if layer is None else [layer], LAYERS, "layer"),
    )
    for names, known, what in arguments:
        for name in names:
            if name not in known:
                raise NotFoundError(
                    f"no {what} {name!r}",
                    expected=f"one of {', '.join(known)}",
                    where="grad_cam",
                    todo=did_you_mean(str(name), known),
                )
    return DEFAULT_LAYERS[gradient][classifier.recipe.size] if layer is None else layer


def _check_images(classifier: Classifier, images: ImageSet | NDArray[np.float32]) -> None:
    size = classifier.recipe.size
    if not isinstance(images, np.ndarray):
        found = f"{images.strategy} images of the {images.bone}, {images.size} pixels"
        expected = f"{classifier.strategy} images of the {classifier.bone}, {size} pixels"
    else:
        found = f"images of shape {images.shape}"
        expected = f"images of shape {(len(images), 3, size, size)}"
    if found != expected:
        raise InputError(
            found, expected=expected, where=classifier.identity, reason=Reason.MODEL_MISMATCH
        )


def _normalised(cam: NDArray[np.float32], normalise: bool) -> Cams:
    top = cam.max(axis=(-2, -1))
    zero = top == 0
    cam[zero] = np.nan
    if normalise:
        cam /= np.where(zero, 1, top)[..., None, None]
    return Cams(cam, np.where(zero, CamStatus.ZERO, CamStatus.MAPPED).astype(np.uint8))


def _activations(
    classifier: Classifier,
    images: NDArray[np.float32],
    findings: tuple[str, ...],
    gradient: Gradient,
    layer: str,
    device: str,
) -> NDArray[np.float32]:
    """Return the CAM of each finding, before normalisation."""
    import torch

    where = find_device(device)
    # One thread at a time: MONAI stores activations in the model, which all threads share.
    with _LOCK:
        compute = _cached_grad_cam(classifier, gradient, layer, str(where))
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(where)
        found = [compute(x=batch, class_idx=FINDINGS[name])[:, 0].detach() for name in findings]
    stacked: NDArray[np.float32] = torch.stack(found, dim=1).cpu().numpy()
    return stacked


@functools.lru_cache(maxsize=3)
def _cached_grad_cam(
    classifier: Classifier, gradient: Gradient, layer: str, device: str
) -> GradCAM:
    """Return MONAI's Grad-CAM of a classifier; the last three are cached."""
    import torch
    from monai.visualize.class_activation_maps import GradCAM

    class ByPixel(GradCAM):
        def compute_map(  # type: ignore[override]
            self, x: torch.Tensor, class_idx: int | None = None, **options: Any
        ) -> torch.Tensor:
            at = options.pop("layer_idx", -1)
            _, active, gradient = self.nn_module(x, class_idx=class_idx, **options)
            return torch.relu((gradient[at] * active[at]).sum(1, keepdim=True))

    model = classifier.model().requires_grad_(False).to(device)
    # Gradients start at this layer: none are computed or stored for earlier layers.
    model.get_submodule(layer).register_forward_pre_hook(
        lambda _, inputs: (inputs[0].requires_grad_(),)
    )
    return (GradCAM if gradient == "mean" else ByPixel)(
        nn_module=model,
        target_layers=layer,
        upsampler=lambda _: _resample_to_maps,
        postprocessing=_identity,
    )


def _resample_to_maps(cam: torch.Tensor) -> torch.Tensor:
    """Interpolate CAMs (image, 1, row, column) to the grid of the maps; rows are cyclic."""
    import torch

    rows = cam.shape[2]
    factor = SIZE // rows  # exact: the number of rows of every layer is a divisor of 224
    padded = torch.nn.functional.pad(cam, (0, 0, 1, 1), mode="circular")
    larger = torch.nn.functional.interpolate(
        padded, size=(factor * (rows + 2), SIZE), mode="bilinear", align_corners=False
    )
    return larger[:, :, factor:-factor]


def _identity(cam: torch.Tensor) -> torch.Tensor:
    return cam
