"""Spherical maps of a real knee, whose mean thickness another program has measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.surface import SURFACE_STATUS, spherical_map
from tests.conftest import Judge

KNEE = "knee_segmentation/right_knee_labels.nrrd"


@pytest.mark.parametrize(
    ("bone", "label", "cartilage", "reference", "within"),
    [("femur", 5, (1,), 2.18, 0.15), ("tibia", 6, (2, 3), 2.36, 0.20)],
)
def test_spherical_map__mean_thickness_of_a_real_knee(
    real_data: Path,
    judge: Judge,
    bone: str,
    label: int,
    cartilage: tuple[int, ...],
    reference: float,
    within: float,
) -> None:
    mask = ql.read_mask(real_data / KNEE)
    labels = np.asarray(mask.labels)
    found = spherical_map(
        labels == label, np.isin(labels, cartilage), mask.affine, bone_name=bone, knee="right"
    )
    covered = found.surface_status == SURFACE_STATUS["covered"]
    thickness = float(found.thickness.where(covered).weighted(found.area.fillna(0)).mean())
    judge(
        f"real knee / mean thickness of {bone} cartilage, by area, over covered surface",
        required=f"{reference} mm within {within:.2f}",
        measured=f"{thickness:.2f} mm",
        passed=abs(thickness - reference) <= within,
    )
    assert found.attrs["flag"] == ""
    shape = found.bone_shape.where(covered)
    low, high = {"femur": (12.6, 51.2), "tibia": (17.0, 42.0)}[bone]
    assert low <= float(shape.min())
    assert float(shape.max()) <= high


@pytest.mark.parametrize(("label", "medial"), [(2, True), (3, False)])
def test_spherical_map__medial_cartilage_lies_at_positive_azimuth(
    real_data: Path, label: int, medial: bool
) -> None:
    mask = ql.read_mask(real_data / KNEE)
    labels = np.asarray(mask.labels)
    found = spherical_map(
        labels == 6, labels == label, mask.affine, bone_name="tibia", knee="right"
    )
    covered = found.surface_status == SURFACE_STATUS["covered"]
    rows = found.azimuth.where(covered.any("polar"), drop=True)
    assert bool(((rows > 0) == medial).all())


def test_spherical_map__a_real_femur_with_less_of_its_shaft(real_data: Path, judge: Judge) -> None:
    mask = ql.read_mask(real_data / KNEE)
    labels = np.asarray(mask.labels)
    femur, cartilage = labels == 5, labels == 1
    whole = spherical_map(femur, cartilage, mask.affine, bone_name="femur", knee="right")
    z = sum(
        mask.affine[2, axis] * np.arange(n).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, n in enumerate(labels.shape)
    )
    above = (z - z[femur].min()) / whole.attrs["width"]
    at = {
        share: spherical_map(
            femur & (above < share), cartilage, mask.affine, bone_name="femur", knee="right"
        )
        for share in (0.90, 0.70)
    }
    same = float(np.abs(at[0.90].bone_shape - whole.bone_shape).max())
    same = max(same, float(np.abs(at[0.90].thickness - whole.thickness).max()))
    covered = whole.surface_status == SURFACE_STATUS["covered"]
    moved = np.abs(at[0.70].bone_shape - whole.bone_shape).where(covered)
    p99 = float(moved.quantile(0.99))
    judge(
        "real knee / a femur cut at 0.90 and at 0.70 of its width",
        required="within 1e-3 mm; shape within 0.5 mm, 99 % of covered pixels",
        measured=f"{same:.1e} mm; {p99:.2f} mm, RMS {float(np.sqrt((moved**2).mean())):.2f}",
        passed=same < 1e-3 and p99 < 0.5,
    )
    assert at[0.90].attrs["flag"] == at[0.70].attrs["flag"] == ""
    assert [at[k].attrs["short_shaft"] for k in (0.90, 0.70)] == [0, 1]
