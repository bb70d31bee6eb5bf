"""Spherical maps of synthetic knees, whose surfaces and thickness are known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from qmri_lake.phantom import exams
from qmri_lake.phantom.exam_truth import set_up
from qmri_lake.phantom.sampling import interpolate, offsets, sample, walk
from qmri_lake.surface import directions, mirrored, spherical_map
from qmri_lake.tissues import BONE
from tests.conftest import Judge

OAI = (160, 384, 384)
BONES = ("femur", "tibia", "patella")


@pytest.mark.accept
@pytest.mark.parametrize("side", ["right", "left"])
def test_spherical_map__synthetic_knees_at_oai_resolution(side: str, judge: Judge) -> None:
    exam = next(e for e in exams(2) if e.side == side)
    at = set_up(exam, OAI)
    lattice = at.lattice()
    labels = sample(lattice, at.dess_affine, at.shape, offsets(2, 2, 2))
    words, passed = [], True
    for name in BONES:
        found = spherical_map(
            labels.bone, labels.cartilage, at.dess_affine, bone_name=name, knee=side
        )
        channel = BONE[name] - 1  # of the lattice: its distance, mm

        def distance(points: np.ndarray, channel: int = channel) -> np.ndarray:
            return interpolate(lattice, points)[:, channel].astype(float)

        rays = (directions(name) @ mirrored(np.eye(4), side)[:3, :3]).reshape(-1, 3)
        rho = found.bone_shape.values.ravel().astype(float)
        points = np.array(found.centre) + rho[:, None] * rays
        normal = np.stack(
            [distance(points + 0.5 * e) - distance(points - 0.5 * e) for e in np.eye(3)], axis=-1
        )
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        true_rho = rho.copy()
        for _ in range(3):  # Newton's steps along the ray, onto the true surface
            there = np.array(found.centre) + true_rho[:, None] * rays
            true_rho -= distance(there) / np.clip((normal * rays).sum(axis=1), 0.2, 1)
        surface = points - distance(points)[:, None] * normal
        true = walk(lattice, surface, normal, channel + 4)
        rim = cKDTree(surface[true < 0.05]).query(surface)[0]
        inner, edge = (true >= 0.05) & (rim >= 4), (true >= 0.05) & (rim < 4)
        error = found.thickness.values.ravel() - true
        bias, rmse = np.nanmean(error[inner]), np.sqrt(np.nanmean(error[inner] ** 2))
        shape = np.sqrt(np.mean((rho - true_rho)[inner] ** 2))
        lost = np.isnan(error[inner]).mean()
        words.append(
            f"{name} {bias:+.3f}, {rmse:.3f}; {shape:.3f} (rim {np.nanmean(error[edge]):+.2f}, "
            f"{np.sqrt(np.nanmean(error[edge] ** 2)):.2f})"
        )
        passed &= abs(bias) < 0.02 and rmse < 0.08 and shape < 0.2 and lost < 0.005
    judge(
        f"spherical map / a synthetic {side} knee at 0.7 x 0.365 x 0.365 mm",
        required="4 mm inside the rim: thickness bias < 0.02, RMSE < 0.08; shape RMSE < 0.2 mm",
        measured="; ".join(words),
        passed=bool(passed),
    )
