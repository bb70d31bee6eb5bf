"""Overlap and surface distance of masks: ours against MONAI's, side by side.

Usage: python -m benchmarks.mask_metrics [SLICESxROWSxCOLUMNS]

Masks are the bones and cartilage of one synthetic knee, against the same pushed by a voxel and
with an end of 5 mm cut off. Times are CPU seconds of this process, best of three, interleaved;
only the ratios mean anything.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_dice

from benchmarks.timing import best
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.metrics import dice, mean_surface_distance

NAMES = ("femur", "tibia", "patella", "femoral cartilage", "tibial cartilage")


def masks(shape: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], tuple[float, ...]]:
    truth = knee(exams(1)[0], shape=shape)
    values = [truth.dess_bone == v for v in (1, 2, 3)]
    values += [truth.dess_cartilage == v for v in (1, 2)]
    spacing = tuple(np.linalg.norm(truth.dess_affine[:3, :3], axis=0).tolist())
    return dict(zip(NAMES, values, strict=True)), spacing


def spoilt(mask: np.ndarray) -> np.ndarray:
    moved = np.roll(mask, (1, 1), axis=(0, 2))
    first = int(np.flatnonzero(moved.any(axis=(1, 2)))[0])
    moved[: first + 7] = False
    return moved


def batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None])


def monai_distance(a: torch.Tensor, b: torch.Tensor, spacing: tuple[float, ...]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = [
            compute_average_surface_distance(
                x, y, include_background=True, symmetric=False, spacing=list(spacing)
            )
            for x, y in ((a, b), (b, a))
        ]
    return float(sum(both)) / 2


def main(text: str = "160x384x384") -> None:
    shape = tuple(int(n) for n in text.split("x"))
    chosen, spacing = masks(shape)  # type: ignore[arg-type]
    torch.set_num_threads(1)
    print(f"{text}, {' x '.join(f'{s:.3f}' for s in spacing)} mm")
    print(
        f"{'':20s} {'MPTS ours':>10s} {'MONAI':>8s} {'ratio':>7s}   {'DSC ours':>9s} {'MONAI':>8s}"
    )
    for name, mask in chosen.items():
        other = spoilt(mask)
        a, b = batch(mask), batch(other)
        ours = mean_surface_distance(mask, other, spacing, fov_edge="surface")
        assert abs(ours - monai_distance(a, b, spacing)) < 1e-5
        seconds = best(
            {
                "distance": lambda m=mask, o=other: mean_surface_distance(
                    m, o, spacing, fov_edge="surface"
                ),
                "MONAI distance": lambda a=a, b=b: monai_distance(a, b, spacing),
                "dice": lambda m=mask, o=other: dice(m, o),
                "MONAI dice": lambda a=a, b=b: float(compute_dice(a, b)),
            },
            repeats=3,
        )
        ratios = (
            seconds["MONAI distance"] / seconds["distance"],
            seconds["MONAI dice"] / seconds["dice"],
        )
        print(
            f"{name:20s} {seconds['distance']:8.3f} s {seconds['MONAI distance']:6.2f} s "
            f"{ratios[0]:6.1f}x   {1e3 * seconds['dice']:6.1f} ms {ratios[1]:7.1f}x"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
