"""Compare overlap and surface distance of masks with MONAI.

Usage: python -m benchmarks.mask_metrics [SLICESxROWSxCOLUMNS]

Masks of the bones and cartilage of one synthetic knee are compared with the same masks after a
shift by one voxel and removal of 5 mm at one end. Times are CPU seconds of this process, the best
of three interleaved repeats; only their ratios are meaningful.
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


def shifted(mask: np.ndarray) -> np.ndarray:
    other = np.roll(mask, (1, 1), axis=(0, 2))
    first = int(np.flatnonzero(other.any(axis=(1, 2)))[0])
    other[: first + 7] = False
    return other


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
    masks_of, spacing = masks(shape)  # type: ignore[arg-type]
    torch.set_num_threads(1)
    print(f"{text}, {' x '.join(f'{s:.3f}' for s in spacing)} mm")
    print(
        f"{'':20s} {'MPTS ours':>10s} {'MONAI':>8s} {'ratio':>7s}   {'DSC ours':>9s} {'MONAI':>8s}"
    )
    for name, mask in masks_of.items():
        other = shifted(mask)
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
