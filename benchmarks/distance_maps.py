"""Compare the computation of distance maps and the rotation of a volume with scipy.

Usage: python -m benchmarks.distance_maps [SLICESxROWSxCOLUMNS]

The labels are the cartilage and menisci of one synthetic knee, with five classes. Times are CPU
seconds of this process on one thread, the best of two interleaved repeats; only their ratios are
meaningful.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.ndimage import affine_transform, binary_dilation, distance_transform_edt

from benchmarks.timing import best
from qmri_lake.phantom import exams, knee
from qmri_lake.segmentation.augmentation.online import augment
from qmri_lake.segmentation.models.distance_maps import distance_maps


def scipy_map(labels: np.ndarray, value: int, spacing: tuple[float, ...]) -> np.ndarray:
    inside = labels == value
    border = (inside & binary_dilation(~inside)) | (~inside & binary_dilation(inside))
    distance = distance_transform_edt(~border, sampling=spacing)
    for side in (inside, ~inside):
        # If all voxels of a side are border voxels, all distances of this side are 0.
        distance[side] = 1 - distance[side] / (distance[side].max() or 1)
    return distance.astype(np.float32)


def scipy_rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (np.array(image.shape[1:]) - 1) / 2
    rotated = np.empty_like(image)
    for plane, out in zip(image, rotated, strict=True):
        affine_transform(plane, matrix, middle - matrix @ middle, order=1, output=out)
    return rotated


def main(text: str = "160x384x384") -> None:
    shape = tuple(int(n) for n in text.split("x"))
    truth = knee(exams(1)[0], shape=shape)  # type: ignore[arg-type]
    labels = truth.dess_cartilage
    spacing = tuple(np.linalg.norm(truth.dess_affine[:3, :3], axis=0).tolist())
    print(f"{text}, {' x '.join(f'{s:.3f}' for s in spacing)} mm")

    maps = distance_maps(labels, 5, spacing)
    for value in range(5):
        assert np.abs(maps[value] - scipy_map(labels, value, spacing)).max() < 1e-5
    seconds = best(
        {
            "ours": lambda: distance_maps(labels, 5, spacing),
            "scipy": lambda: [scipy_map(labels, value, spacing) for value in range(5)],
        },
        repeats=2,
    )
    report("distance maps of five classes", seconds)

    image, no_maps = 100.0 * labels.astype(np.float32), np.zeros((0, *labels.shape), np.float32)

    def rotate() -> np.ndarray:
        rng = np.random.default_rng(0)
        return augment(image, labels, no_maps, rng, flip=0, rotation=1)[0]

    rotated = rotate()
    inner = np.s_[:, shape[1] // 8 : -shape[1] // 8, shape[2] // 8 : -shape[2] // 8]
    angle = min(range(-5, 6), key=lambda a: np.abs(rotated - scipy_rotated(image, a))[inner].max())
    assert np.abs(rotated - scipy_rotated(image, angle))[inner].max() < 0.1
    seconds = best({"ours": rotate, "scipy": lambda: scipy_rotated(image, angle)}, repeats=2)
    report("rotation of an image (ours: with its labels)", seconds)


def report(name: str, seconds: dict[str, float]) -> None:
    ratio = seconds["scipy"] / seconds["ours"]
    print(f"{name:45s} {seconds['ours']:6.2f} s, scipy {seconds['scipy']:6.2f} s {ratio:6.1f}x")


if __name__ == "__main__":
    main(*sys.argv[1:])
