"""How the knee moved between DESS and MSME: a rigid transform by mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.registration.carry import check_labels

__all__ = ["Refinement", "RegistrationStatus", "refine_rigid"]

_NEAR_MM = 10.0
"""The images are compared this near to a label."""
_SHADING_MM = 10.0
"""Gaussian sigma of what counts as shading by the coils; both images are divided by theirs."""
_AIR = 0.15
"""Signal below this share of the mean is air, and says nothing about shading."""
_FINEST_MM = 0.75
"""Voxels are joined as long as they stay finer than this."""
_LEVER_MM = 40.0
"""A rotation by one radian counts as a shift by this."""
_BINS = 32
_FIRST_STEP_MM, _LAST_STEP_MM, _STEPS = 0.5, 1e-3, 200
_PLAUSIBLE_MM, _PLAUSIBLE_DEGREES = 10.0, 10.0
_LEAST_INFORMATION = 0.05
"""Nats; a good refinement reaches 0.3 and more, one that got lost on the way 0.02."""
_LEAST_VOXELS = 4
"""Along each axis of an image: a smaller one has no shading to divide by."""


class RegistrationStatus(IntEnum):
    """Where `dess_to_msme` comes from."""

    SCANNER = 0
    REFINED = 1
    NOT_IMPROVED = 2
    IMPLAUSIBLE = 3


@dataclass(frozen=True, slots=True)
class Refinement:
    """Where DESS and MSME of one exam lie to each other."""

    transform: NDArray[np.float64]
    """(4, 4), x_msme = T x_dess in LPS mm."""
    before: float
    """Mutual information in the scanner's geometry, nats; NaN where it was not computed."""
    after: float
    """The same with `transform`."""
    status: RegistrationStatus
    note: str = ""
    """What a reader should know; empty where nothing is odd."""


def refine_rigid(
    dess: NDArray[np.float32],
    affine: NDArray[np.float64],
    msme: NDArray[np.float32],
    target_affine: NDArray[np.float64],
    labels: NDArray[np.uint8],
) -> Refinement:
    """Return the rigid transform that makes DESS and MSME tell most about each other.

    It starts from the scanner's geometry, and maximises Mattes' mutual information of the DESS and
    the mean of all echoes by six parameters, over all MSME voxels within 10 mm of a label. Both
    images are divided by their own Gaussian mean (sigma 10 mm) first: the coils shade them
    differently, and shading alone can pull knees apart by more than a millimetre. One thread, no
    random samples: the same images give the same bits. [assumption]

    Parameters
    ----------
    dess : (slice, row, column) float32
        DESS image, any unit.
    affine, target_affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm, of the DESS and of the MSME.
    msme : (echo, slice, row, column) float32
        MSME image; echoes without a value are left out.
    labels : (slice, row, column) uint8
        On the DESS grid; `qmri_lake.tissues.CARTILAGE`.

    Returns
    -------
    Refinement
        A refinement that does not raise mutual information, or not to 0.05 nats, is not used: the
        transform is the identity, and `status` and `note` say so. One that moves the centre of the
        labels by more than 10 mm, or turns by more than 10 degrees, is used, and said to be
        implausible.

    Raises
    ------
    InputError
        No DESS or MSME image. Labels that `carry_labels` refuses.
    """
    import SimpleITK as sitk

    check_labels(labels)
    echoes = [echo for echo in msme if np.isfinite(echo).all()]
    for name, absent in (("DESS", not np.isfinite(dess).all()), ("MSME", not echoes)):
        if absent:
            raise InputError(
                f"no {name} image, or one that is not finite",
                expected="both images",
                where="register",
                todo="Choose exams that have both, or use method='scanner'.",
                reason=Reason.ABSENT_EXAM,
            )
    if not labels.any():
        return _kept("")
    if min(*dess.shape, *echoes[0].shape) < _LEAST_VOXELS:
        return _kept(f"an image of fewer than {_LEAST_VOXELS} voxels along an axis")
    fixed = _evened(np.mean(echoes, axis=0), target_affine)
    moving = _evened(dess, affine)
    centre = affine[:3, :3] @ np.argwhere(labels).mean(axis=0) + affine[:3, 3]
    # With the MSME as the fixed image, it maps MSME points to DESS points.
    back = sitk.Euler3DTransform()
    back.SetCenter(centre.tolist())

    search = sitk.ImageRegistrationMethod()
    # Sums of several threads differ in their last bits; the first setting alone leaves some.
    search.SetNumberOfThreads(1)
    search.SetNumberOfWorkUnits(1)
    search.SetMetricAsMattesMutualInformation(_BINS)
    search.SetMetricSamplingStrategy(search.NONE)
    search.SetMetricFixedMask(_near(labels, affine, fixed))
    search.SetInterpolator(sitk.sitkLinear)
    # The filters smooth: with their gradient the search ends 0.1 mm beside the best place.
    search.SetMetricUseMovingImageGradientFilter(False)
    search.SetMetricUseFixedImageGradientFilter(False)
    search.SetOptimizerAsRegularStepGradientDescent(_FIRST_STEP_MM, _LAST_STEP_MM, _STEPS)
    search.SetOptimizerScales([_LEVER_MM**2] * 3 + [1.0] * 3)
    search.SetInitialTransform(back, inPlace=True)
    try:
        before = -search.MetricEvaluate(fixed, moving)
        search.Execute(fixed, moving)
        after = -search.MetricEvaluate(fixed, moving)
    except RuntimeError as error:  # too few voxels lie in both images, for one
        return _kept(str(error).strip().splitlines()[-1].strip())
    if not (after > before and after >= _LEAST_INFORMATION):
        return _kept(
            f"mutual information of {before:.3f} nats before and {after:.3f} after, not a rise to "
            f"at least {_LEAST_INFORMATION}",
            before,
        )
    forth = np.asarray(np.linalg.inv(_matrix(back)), np.float64)
    return _judged(forth, before, after, centre)


def _kept(why: str, before: float = float("nan")) -> Refinement:
    note = f"not refined, the scanner's geometry was kept: {why}" if why else ""
    return Refinement(np.eye(4), before, before, RegistrationStatus.NOT_IMPROVED, note)


def _judged(
    transform: NDArray[np.float64], before: float, after: float, centre: NDArray[np.float64]
) -> Refinement:
    """Say whether a knee in its coil can have moved that far."""
    away = float(np.linalg.norm((transform @ [*centre, 1.0])[:3] - centre))
    cosine = np.clip((np.trace(transform[:3, :3]) - 1) / 2, -1, 1)
    turned = float(np.degrees(np.arccos(cosine)))
    if away <= _PLAUSIBLE_MM and turned <= _PLAUSIBLE_DEGREES:
        return Refinement(transform, before, after, RegistrationStatus.REFINED)
    note = (
        f"{Reason.IMPLAUSIBLE_MOTION}: the knee moved by {away:.1f} mm and {turned:.1f} degrees "
        f"between DESS and MSME, more than {_PLAUSIBLE_MM:.0f} mm or {_PLAUSIBLE_DEGREES:.0f} "
        "degrees"
    )
    return Refinement(transform, before, after, RegistrationStatus.IMPLAUSIBLE, note)


def _image(values: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Return a SimpleITK image, whose axes are column, row, slice."""
    import SimpleITK as sitk

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values))
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _joined(affine: NDArray[np.float64]) -> list[int]:
    """Return how many voxels are joined along each axis: slice, row, column."""
    return [max(1, int(_FINEST_MM / step)) for step in np.linalg.norm(affine[:3, :3], axis=0)]


def _evened(values: NDArray[np.float32], affine: NDArray[np.float64]) -> Any:
    """Return an image without its shading: 1 where it is as bright as what lies around."""
    import SimpleITK as sitk

    join = sitk.BinShrinkImageFilter()
    join.SetShrinkFactors(_joined(affine)[::-1])
    smooth = sitk.SmoothingRecursiveGaussianImageFilter()
    smooth.SetSigma(_SHADING_MM)
    join.SetNumberOfThreads(1)
    smooth.SetNumberOfThreads(1)
    image = join.Execute(_image(values.astype(np.float32, copy=False), affine))
    signal = sitk.GetArrayFromImage(image)
    tissue = (signal > _AIR * signal.mean()).astype(np.float32)
    mean, share = (
        sitk.GetArrayFromImage(smooth.Execute(_like(part, image)))
        for part in (signal * tissue, tissue)
    )
    seen = (share > 0.01) & (mean > 0)
    return _like(np.divide(signal * share, mean, out=np.zeros_like(signal), where=seen), image)


def _like(values: NDArray[Any], image: Any) -> Any:
    import SimpleITK as sitk

    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def _near(labels: NDArray[np.uint8], affine: NDArray[np.float64], fixed: Any) -> Any:
    """Return the mask of a fixed image: where it is near to a label, by the scanner's geometry."""
    import edt
    import SimpleITK as sitk

    step = _joined(affine)
    some = labels[:: step[0], :: step[1], :: step[2]] != 0
    coarse = affine @ np.diag([*step, 1.0])
    spacing = tuple(np.linalg.norm(coarse[:3, :3], axis=0).tolist())
    near = edt.edt(~some, anisotropy=spacing, parallel=1) <= _NEAR_MM
    place = sitk.ResampleImageFilter()
    place.SetNumberOfThreads(1)
    place.SetReferenceImage(fixed)
    place.SetInterpolator(sitk.sitkNearestNeighbor)
    place.SetOutputPixelType(sitk.sitkUInt8)
    return place.Execute(_image(near.astype(np.uint8), coarse))


def _matrix(transform: Any) -> NDArray[np.float64]:
    """Return a SimpleITK transform about a centre as (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    out[:3, 3] = centre + transform.GetTranslation() - out[:3, :3] @ centre
    return out
