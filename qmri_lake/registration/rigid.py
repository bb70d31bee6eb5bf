"""Rigid registration of DESS and MSME by mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.array_api import Values
from qmri_lake.core.geometry import voxel_spacing
from qmri_lake.errors import InputError, Reason
from qmri_lake.registration.label_transfer import check_labels

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["Refinement", "RegistrationStatus", "refine_rigid"]

_NEAR_MM = 10.0
"""Largest distance from a label at which voxels are compared."""
_SHADING_MM = 10.0
"""Sigma of the Gaussian that estimates the shading by the coils. Each image is divided by its own
shading."""
_AIR = 0.15
"""Signal below this share of the mean is air, which is excluded from the shading."""
_FINEST_MM = 0.75
"""Voxels are averaged up to this size before the registration."""
_LEVER_MM = 40.0
"""Shift that the optimiser treats as equivalent to a rotation by one radian."""
_BINS = 32
_FIRST_STEP_MM, _LAST_STEP_MM, _STEPS = 0.5, 1e-3, 200
_PLAUSIBLE_MM, _PLAUSIBLE_DEGREES = 10.0, 10.0
_LEAST_INFORMATION = 0.05
"""Smallest mutual information of a registration that is used, nats. A good registration reaches 0.3
or more, and a failed registration about 0.02."""
_LEAST_VOXELS = 4
"""Smallest number of voxels along each axis. The shading of a smaller image is undefined."""


class RegistrationStatus(IntEnum):
    """Origin of `dess_to_msme`."""

    SCANNER = 0
    REFINED = 1
    NOT_IMPROVED = 2
    IMPLAUSIBLE = 3


@dataclass(frozen=True, slots=True)
class Refinement:
    """The transform between DESS and MSME of one exam."""

    transform: NDArray[np.float64]
    """(4, 4) transform T in x_msme = T x_dess, in LPS mm."""
    before: float
    """Mutual information with the scanner's geometry, nats; NaN if it was not computed."""
    after: float
    """Mutual information with `transform`, nats; NaN if it was not computed."""
    status: RegistrationStatus
    note: str = ""
    """Note on an implausible result; empty otherwise."""


def refine_rigid(
    dess: NDArray[np.float32],
    affine: NDArray[np.float64],
    msme: NDArray[np.float32],
    target_affine: NDArray[np.float64],
    labels: NDArray[np.uint8],
) -> Refinement:
    """Return the rigid transform with the largest mutual information of DESS and MSME.

    The search starts at the scanner's geometry. It maximises Mattes' mutual information of the DESS
    and the mean of all echoes over six parameters, in all MSME voxels within 10 mm of a label. Both
    images are first divided by their own Gaussian mean (sigma 10 mm). Otherwise, different shading
    by the coils could shift the optimum by more than a millimetre. One thread is used, without
    random sampling, so that repeated registrations are bitwise identical. [assumption]

    Parameters
    ----------
    dess : (slice, row, column) float32
        DESS image, any unit.
    affine, target_affine : (4, 4) float64
        Voxel (slice, row, column, 1) to LPS mm, for the DESS and for the MSME.
    msme : (echo, slice, row, column) float32
        MSME image; echoes with NaN or infinity are excluded.
    labels : (slice, row, column) uint8
        Labels of `qmri_lake.tissues.CARTILAGE` on the DESS grid.

    Returns
    -------
    Refinement
        A registration is only used if it increases mutual information to at least 0.05 nats.
        Otherwise, the transform is the identity, and `status` is NOT_IMPROVED. A registration that
        moves the centre of the labels by more than 10 mm, or rotates by more than 10 degrees, is
        used with the status IMPLAUSIBLE. `note` gives the reason.

    Raises
    ------
    InputError
        If the DESS or the MSME image is missing, or if the labels are invalid for
        `transfer_labels`.
    """
    import SimpleITK as sitk

    check_labels(labels)
    echoes = [echo for echo in msme if np.isfinite(echo).all()]
    for name, absent in (("DESS", not np.isfinite(dess).all()), ("MSME", not echoes)):
        if absent:
            raise InputError(
                f"the {name} image is missing, or contains NaN or infinity",
                expected="a DESS and an MSME image with finite values",
                where="register",
                todo="Choose exams that have both images, or use method='scanner'.",
                reason=Reason.ABSENT_EXAM,
            )
    if not labels.any():
        return _keep_scanner("")
    if min(*dess.shape, *echoes[0].shape) < _LEAST_VOXELS:
        return _keep_scanner(f"an image of fewer than {_LEAST_VOXELS} voxels along an axis")
    fixed = _remove_shading(np.mean(echoes, axis=0), target_affine)
    moving = _remove_shading(dess, affine)
    centre = affine[:3, :3] @ np.argwhere(labels).mean(axis=0) + affine[:3, 3]
    # With the MSME as the fixed image, the transform maps MSME points to DESS points.
    back = sitk.Euler3DTransform()
    back.SetCenter(centre.tolist())

    search = sitk.ImageRegistrationMethod()
    # Sums over several threads differ in their last bits. Both settings are necessary.
    search.SetNumberOfThreads(1)
    search.SetNumberOfWorkUnits(1)
    search.SetMetricAsMattesMutualInformation(_BINS)
    search.SetMetricSamplingStrategy(search.NONE)
    search.SetMetricFixedMask(_near_mask(labels, affine, fixed))
    search.SetInterpolator(sitk.sitkLinear)
    # These filters would smooth the gradient and shift the optimum by 0.1 mm.
    search.SetMetricUseMovingImageGradientFilter(False)
    search.SetMetricUseFixedImageGradientFilter(False)
    search.SetOptimizerAsRegularStepGradientDescent(_FIRST_STEP_MM, _LAST_STEP_MM, _STEPS)
    search.SetOptimizerScales([_LEVER_MM**2] * 3 + [1.0] * 3)
    search.SetInitialTransform(back, inPlace=True)
    try:
        before = -search.MetricEvaluate(fixed, moving)
        search.Execute(fixed, moving)
        after = -search.MetricEvaluate(fixed, moving)
    except RuntimeError as error:  # for example if too few voxels are inside both images
        return _keep_scanner(str(error).strip().splitlines()[-1].strip())
    if not (after > before and after >= _LEAST_INFORMATION):
        return _keep_scanner(
            f"mutual information of {before:.3f} nats before and {after:.3f} after, expected an "
            f"increase to at least {_LEAST_INFORMATION}",
            before,
        )
    forth = np.asarray(np.linalg.inv(_matrix_of(back)), np.float64)
    return _check_plausible(forth, before, after, centre)


def _keep_scanner(why: str, before: float = float("nan")) -> Refinement:
    note = f"not registered, the scanner's geometry is used: {why}" if why else ""
    return Refinement(np.eye(4), before, before, RegistrationStatus.NOT_IMPROVED, note)


def _check_plausible(
    transform: NDArray[np.float64], before: float, after: float, centre: NDArray[np.float64]
) -> Refinement:
    """Return the refinement, with a note if a knee cannot move that far in its coil."""
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


def _image(values: Values, affine: NDArray[np.float64]) -> sitk.Image:
    """Return a SimpleITK image, whose axes are column, row, slice."""
    import SimpleITK as sitk

    spacing = voxel_spacing(affine)
    image: sitk.Image = sitk.GetImageFromArray(np.ascontiguousarray(values))
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _shrink_factors(affine: NDArray[np.float64]) -> list[int]:
    """Return the number of voxels to average along each axis (slice, row, column)."""
    return [max(1, int(_FINEST_MM / step)) for step in voxel_spacing(affine)]


def _remove_shading(values: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    """Return an image divided by its local mean.

    The result is 1 where the image is as bright as its surroundings.
    """
    import SimpleITK as sitk

    join = sitk.BinShrinkImageFilter()
    join.SetShrinkFactors(_shrink_factors(affine)[::-1])
    smooth = sitk.SmoothingRecursiveGaussianImageFilter()
    smooth.SetSigma(_SHADING_MM)
    join.SetNumberOfThreads(1)
    smooth.SetNumberOfThreads(1)
    image = join.Execute(_image(values.astype(np.float32, copy=False), affine))
    signal = sitk.GetArrayFromImage(image)
    tissue = (signal > _AIR * signal.mean()).astype(np.float32)
    mean, share = (
        sitk.GetArrayFromImage(smooth.Execute(_as_image(part, image)))
        for part in (signal * tissue, tissue)
    )
    seen = (share > 0.01) & (mean > 0)
    return _as_image(np.divide(signal * share, mean, out=np.zeros_like(signal), where=seen), image)


def _as_image(values: Values, image: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    made: sitk.Image = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def _near_mask(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], fixed: sitk.Image
) -> sitk.Image:
    """Return the mask of the voxels of a fixed image near labels in the scanner's geometry."""
    import edt
    import SimpleITK as sitk

    step = _shrink_factors(affine)
    some = labels[:: step[0], :: step[1], :: step[2]] != 0
    coarse = affine @ np.diag([*step, 1.0])
    spacing = tuple(voxel_spacing(coarse).tolist())
    near = edt.edt(~some, anisotropy=spacing, parallel=1) <= _NEAR_MM
    place = sitk.ResampleImageFilter()
    place.SetNumberOfThreads(1)
    place.SetReferenceImage(fixed)
    place.SetInterpolator(sitk.sitkNearestNeighbor)
    place.SetOutputPixelType(sitk.sitkUInt8)
    mask: sitk.Image = place.Execute(_image(near.astype(np.uint8), coarse))
    return mask


def _matrix_of(transform: sitk.Euler3DTransform) -> NDArray[np.float64]:
    """Return the matrix (4, 4) of a SimpleITK transform about a centre."""
    out = np.eye(4)
    out[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    out[:3, 3] = centre + transform.GetTranslation() - out[:3, :3] @ centre
    return out
