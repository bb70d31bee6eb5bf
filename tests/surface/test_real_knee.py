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
    real_data: Path, judge: Judge, bone: str, label: int, cartilage: tuple[int, ...],
    reference: float, within: float,
) -> None:  # fmt: skip
    mask = ql.read_mask(real_data / KNEE)
    labels = np.asarray(mask.labels)
    found = spherical_map(labels == label, np.isin(labels, cartilage), mask.affine,
                          bone_name=bone, knee="right")  # fmt: skip
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
    found = spherical_map(labels == 6, labels == label, mask.affine, bone_name="tibia",
                          knee="right")  # fmt: skip
    covered = found.surface_status == SURFACE_STATUS["covered"]
    rows = found.azimuth.where(covered.any("polar"), drop=True)
    assert bool(((rows > 0) == medial).all())
