"""Overlap and surface distance, compared with MONAI, the definition, and known shapes."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.metrics import dice, mean_surface_distance, surface_distances
from tests.conftest import Judge

DESS = (0.7, 0.365, 0.365)


def sphere(radius: float, shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.asarray(sum(g**2 for g in grid) <= radius**2)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Ten pairs of phantom masks: true labels, and labels shifted or eroded by a voxel or more."""
    found = []
    for number, exam in enumerate(exams(2)):
        truth = knee(exam, shape=(32, 96, 96))
        labels = truth.dess_bone + 4 * (truth.dess_cartilage > 0)
        for value in (1, 2, 3, 4, 7):
            mask = (labels == value) | ((value == 4) & (truth.dess_cartilage > 0))
            if value == 7:
                mask = truth.dess_cartilage == 1
            moved = np.roll(mask, (number, 2, -1), axis=(0, 1, 2)) if value % 2 else mask.copy()
            moved[:, ::7] = False
            found.append((mask, moved))
    return found


def monai_directed(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    import warnings

    import torch
    from monai.metrics import compute_average_surface_distance

    first, second = (torch.from_numpy(m[None, None]) for m in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of an argument of its own
        return float(
            compute_average_surface_distance(
                first, second, include_background=True, symmetric=False, spacing=list(spacing)
            )
        )


def test_mean_surface_distance__equals_monais_both_ways(
    pairs: list[tuple[np.ndarray, np.ndarray]], judge: Judge
) -> None:
    off = []
    for a, b in pairs:
        there = surface_distances(a, b, DESS, fov_edge="surface").mean()
        back = surface_distances(b, a, DESS, fov_edge="surface").mean()
        off += [there - monai_directed(a, b, DESS), back - monai_directed(b, a, DESS)]
        mean = mean_surface_distance(a, b, DESS, fov_edge="surface")
        assert mean == pytest.approx((there + back) / 2)
    judge(
        "MPTS / against MONAI, both directions, ten phantom masks",
        required="to 1e-5 mm",
        measured=f"{np.abs(off).max():.1e} mm",
        passed=len(pairs) == 10 and np.abs(off).max() <= 1e-5,
    )


def test_mean_surface_distance__concentric_spheres(judge: Judge) -> None:
    shape = (100, 190, 190)
    found = mean_surface_distance(sphere(30, shape, DESS), sphere(30.5, shape, DESS), DESS)
    judge(
        "MPTS / concentric spheres of 30 and 30.5 mm, 0.7 x 0.365 x 0.365 mm",
        required="within 0.02 of 0.5 mm",
        measured=f"{found:.4f} mm",
        passed=abs(found - 0.5) <= 0.02,
    )


def test_mean_surface_distance__far_masks_are_measured_too() -> None:
    a, b = np.zeros((2, 30, 9, 9), bool)
    a[2:5, 3:6, 3:6] = True
    b[22:25, 3:6, 3:6] = True
    # Front and back faces: 20 voxels less or more than two; the rest lies between.
    there = surface_distances(a, b, (1.0, 1.0, 1.0))
    assert there.min() == 18.0
    assert there.max() == 20.0
    assert mean_surface_distance(a, b, (1, 1, 1)) == mean_surface_distance(b, a, (1, 1, 1))


def test_mean_surface_distance__edge_of_the_field_of_view() -> None:
    """Two shafts of different width with the same cut: the cut faces must not count."""
    a, b = np.zeros((2, 24, 24, 24), bool)
    a[:, 6:18, 6:18] = True
    b[:, 8:16, 8:16] = True
    ignored = mean_surface_distance(a, b, (1, 1, 1))
    counted = mean_surface_distance(a, b, (1, 1, 1), fov_edge="surface")
    assert 2.0 <= ignored < 2.2  # the walls are two voxels apart, edges a little more
    assert counted < ignored


def test_mean_surface_distance__mirrored_shifted_and_scaled() -> None:
    rng = np.random.default_rng(0)
    a, b = np.zeros((2, 20, 20, 20), bool)
    a[5:12, 4:14, 6:15] = rng.random((7, 10, 9)) > 0.2
    b[6:12, 5:14, 6:14] = rng.random((6, 9, 8)) > 0.2
    base = mean_surface_distance(a, b, DESS)
    assert mean_surface_distance(a[::-1], b[::-1], DESS) == pytest.approx(base, rel=1e-12)
    shifted = (np.roll(m, 3, axis=1) for m in (a, b))
    assert mean_surface_distance(*shifted, DESS) == pytest.approx(base, rel=1e-12)
    doubled = tuple(2 * s for s in DESS)
    assert mean_surface_distance(a, b, doubled) == pytest.approx(2 * base, rel=1e-9)
    turned = (m.transpose(2, 0, 1) for m in (a, b))
    assert mean_surface_distance(*turned, (DESS[2], DESS[0], DESS[1])) == pytest.approx(base)


def test_dice__is_its_definition(pairs: list[tuple[np.ndarray, np.ndarray]], judge: Judge) -> None:
    off = [
        dice(a, b) - 2 * float((a & b).sum()) / (float(a.sum()) + float(b.sum())) for a, b in pairs
    ]
    judge(
        "DSC / against its definition, ten phantom masks",
        required="equal",
        measured=f"largest difference {np.abs(off).max():.1e}",
        passed=np.abs(off).max() == 0,
    )


def test_dice__empty_masks() -> None:
    empty, full = np.zeros(5, bool), np.ones(5, bool)
    assert np.isnan(dice(empty, empty))
    assert dice(empty, full) == 0
    assert dice(full, full) == 1


def test_metrics__errors_contain_advice() -> None:
    a = np.ones((4, 4, 4), bool)
    a[0] = False
    with pytest.raises(InputError, match=r"masks of .* and .*expected the same shape") as caught:
        dice(a, a[1:])
    assert caught.value.reason is Reason.GRID_MISMATCH
    with pytest.raises(InputError, match=r"a mask of dtype uint8.*labels == value"):
        dice(a.astype(np.uint8), a.astype(np.uint8))
    with pytest.raises(InputError, match="no voxel in the second mask") as caught:
        mean_surface_distance(a, np.zeros_like(a), (1, 1, 1))
    assert caught.value.reason is Reason.EMPTY_MASK
    with pytest.raises(InputError, match="a mask that fills the field of view"):
        mean_surface_distance(np.ones_like(a), np.ones_like(a), (1, 1, 1))
    for spacing in ((1, 1), (1, 0, 1), (1, np.nan, 1)):
        with pytest.raises(InputError, match="three lengths above 0"):
            mean_surface_distance(a, a, spacing)
    with pytest.raises(InputError, match=r"fov_edge='no' \(expected ignore or surface"):
        mean_surface_distance(a, a, (1, 1, 1), fov_edge="no")  # type: ignore[arg-type]
