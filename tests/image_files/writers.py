"""Images of knees in the formats of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk

from tests.masks.writers import affine_of, turned

SHAPE = (6, 9, 8)
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def knee_affine(knee: str) -> np.ndarray:
    """An oblique sagittal grid whose centre is 70 mm beside the isocentre."""
    affine = affine_of(knee)
    centre = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    affine[:3, 3] = np.array([-70.0 if knee == "right" else 70.0, -10, 5]) - centre
    return affine


def signal(seed: int, images: int = 1, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Return (image, slice, row, column) int16 without symmetry."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2000, (images, *shape)).astype(np.int16)


def in_file_axes(
    images: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (i, j, k, image) with its axes in another order, and the affine, LPS."""
    moved = [turned(image, affine, axes, flips) for image in images]
    return np.stack([image for image, _ in moved], -1), moved[0][1]


def write_image(
    path: Path,
    images: np.ndarray,
    affine: np.ndarray,
    axes: tuple[int, ...] = (2, 1, 0),
    flips: tuple[int, ...] = (1, 2),
    **sidecar: Any,
) -> Path:
    """Write (image, slice, row, column) in the format of the suffix, and a sidecar of fields."""
    values, moved = in_file_axes(images, affine, axes, flips)
    values = values[..., 0] if len(images) == 1 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        image = nibabel.Nifti1Image(values, TO_RAS @ moved)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
    elif name.endswith((".nrrd", ".nhdr")):
        vectors = [list(vector) for vector in moved[:3, :3].T]
        header = {
            "space": "left-posterior-superior",
            "space directions": [*vectors, *[[np.nan] * 3] * (values.ndim - 3)],
            "space origin": moved[:3, 3],
            "kinds": ["domain"] * 3 + ["list"] * (values.ndim - 3),
            "encoding": "gzip" if name.endswith(".nrrd") else "raw",
        }
        nrrd.write(str(path), values, header)
    else:
        sitk.WriteImage(_itk(values, moved), str(path), useCompression=name.endswith("c.mha"))
    if sidecar:
        stem = name.removesuffix(".gz").rpartition(".")[0]
        (path.parent / f"{stem}.json").write_text(json.dumps(sidecar))
    return path


def _itk(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    volumes = values[..., np.newaxis] if values.ndim == 3 else values
    images = [sitk.GetImageFromArray(v) for v in np.moveaxis(volumes, -1, 0).transpose(0, 3, 2, 1)]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for image in images:
        image.SetSpacing(spacing.tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
    return images[0] if len(images) == 1 else sitk.JoinSeries(images)
