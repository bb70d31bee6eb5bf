"""Compare the spherical map of a femur with the cartilage thickness of pymskt on a mesh.

Usage: python -m benchmarks.spherical_maps [--python PYTHON]

PYTHON is an interpreter with pymskt, which is not a dependency of this package. It can be created
with `python -m venv mskt && mskt/bin/pip install mskt nibabel`. Without PYTHON, only the results of
this package are printed. Times are CPU seconds of each process: the best of three repeats for this
package, a single run for pymskt. Only their ratios are meaningful. Errors are relative to the true
thickness of the synthetic knee, at the points that each program measured, at least 4 mm inside the
rim of the cartilage. Peak memory is measured in a separate process, which maps three bones.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.timing import best
from qmri_lake.phantom import exams
from qmri_lake.phantom.exam_truth import set_up
from qmri_lake.phantom.sampling import interpolate, offsets, sample, walk
from qmri_lake.surface import directions, mirrored, spherical_map

SHAPE = (160, 384, 384)
REPEATS = 3

PYMSKT = """
import sys, time, warnings
import numpy as np
import SimpleITK as sitk
warnings.simplefilter("ignore")
from pymskt.mesh import BoneMesh

folder = sys.argv[1]
saved = np.load(folder + "/masks.npz")
image = sitk.GetImageFromArray(np.transpose(saved["labels"], (2, 1, 0)))
affine = saved["affine"]
spacing = np.linalg.norm(affine[:3, :3], axis=0)
image.SetSpacing(spacing.tolist())
image.SetOrigin(affine[:3, 3].tolist())
image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
for method in ("pcu", "none"):
    start = time.process_time()
    bone = BoneMesh(seg_image=image, label_idx=1, list_cartilage_labels=[2])
    bone.create_mesh()
    if method == "none":
        bone.create_cartilage_meshes(fix_method=None)
    bone.calc_cartilage_thickness()
    print(time.process_time() - start, flush=True)
    np.savez(folder + "/" + method, points=np.asarray(bone.points),
             thickness=np.asarray(bone.point_data["thickness (mm)"]))
"""

MEMORY = """
import sys
import numpy as np
from qmri_lake.surface import spherical_map
saved = np.load(sys.argv[1] + "/labels.npz")
bone, cartilage, affine, side = (saved[n] for n in ("bone", "cartilage", "affine", "side"))
def peak():
    # A process inherits ru_maxrss from its parent process, but not VmHWM.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(v.split()[1]) for v in lines if v.startswith("VmHWM")) / 1024
import qmri_lake.steps.spherical_maps  # a run always imports this module
before = peak()
for name in ("femur", "tibia", "patella"):
    spherical_map(bone, cartilage, affine, bone_name=name, knee=str(side))
print(before, peak())
"""


class Truth:
    """A synthetic knee and the true thickness of its femoral cartilage."""

    def __init__(self) -> None:
        self.exam = exams(1)[0]
        setup = set_up(self.exam, SHAPE)
        self.affine = setup.dess_affine
        self.lattice = setup.lattice()
        self.labels = sample(self.lattice, setup.dess_affine, setup.shape, offsets(2, 2, 2))

    def errors(self, points: NDArray[np.float64], measured: NDArray[np.float64]) -> str:
        """Describe the errors of measured thickness (n,) [mm] at points (n, 3), LPS [mm]."""

        def distance(places: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(interpolate(self.lattice, places)[:, 0], np.float64)

        kept = np.isfinite(points).all(axis=1)
        points, measured = points[kept], measured[kept]
        normal = np.stack(
            [distance(points + 0.5 * e) - distance(points - 0.5 * e) for e in np.eye(3)], axis=-1
        )
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        surface = points - distance(points)[:, None] * normal
        true = walk(self.lattice, surface, normal, 4)
        rim = cKDTree(surface[true < 0.05]).query(surface)[0]
        inner = (true >= 0.05) & (rim >= 4)
        error = measured[inner] - true[inner]
        lost = np.mean(~(measured[inner] > 0))
        known = np.isfinite(error)
        return (
            f"bias {error[known].mean():+.3f}, RMSE {np.sqrt((error[known] ** 2).mean()):.3f}, "
            f"median |error| {np.median(np.abs(error[known])):.3f} mm, without cartilage {lost:.1%}"
        )


def ours(truth: Truth) -> tuple[float, str]:
    def action() -> object:
        return spherical_map(
            truth.labels.bone,
            truth.labels.cartilage,
            truth.affine,
            bone_name="femur",
            knee=truth.exam.side,
        )

    action()  # compile
    seconds = best({"ours": action}, REPEATS)["ours"]
    found = spherical_map(
        truth.labels.bone,
        truth.labels.cartilage,
        truth.affine,
        bone_name="femur",
        knee=truth.exam.side,
    )
    rays = directions("femur") @ mirrored(np.eye(4), truth.exam.side)[:3, :3]
    points = np.array(found.centre) + found.bone_shape.values[..., None].astype(float) * rays
    thickness = found.thickness.values.astype(float)
    return seconds, truth.errors(points.reshape(-1, 3), thickness.ravel())


def save(truth: Truth, folder: Path) -> None:
    labels = np.where(truth.labels.cartilage == 1, 2, truth.labels.bone == 1).astype(np.uint8)
    np.savez(folder / "masks.npz", labels=labels, affine=truth.affine)
    np.savez(
        folder / "labels.npz",
        bone=truth.labels.bone,
        cartilage=truth.labels.cartilage,
        affine=truth.affine,
        side=truth.exam.side,
    )


def run(python: str, program: str, folder: Path) -> list[str]:
    """Run a program in an interpreter, and return its printed lines."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, str(folder)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", metavar="PYTHON", help="interpreter with pymskt")
    options = parser.parse_args()
    truth = Truth()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {'x'.join(map(str, SHAPE))}, one femur, "
        f"CPU seconds"
    )
    seconds, accuracy = ours(truth)
    print(f"{'ours, the whole map':24s} {seconds:7.2f} s          {accuracy}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(truth, folder)
        if options.python:
            lines = [v for v in run(options.python, PYMSKT, folder) if v[0].isdigit()]
            for method, words, line in zip(
                ("pcu", "none"), ("pymskt, default", "pymskt, no mesh repair"), lines, strict=True
            ):
                saved = np.load(folder / f"{method}.npz")
                print(
                    f"{words:24s} {float(line):7.2f} s {float(line) / seconds:6.1f}x  "
                    f"{truth.errors(saved['points'], saved['thickness'])}"
                )
        else:
            print("pymskt was not run: pass --python (see the docstring of this module)")
        before, peak = (float(v) for v in run(sys.executable, MEMORY, folder)[-1].split())
    print(
        f"peak memory, three bones: {peak:.0f} MB, including {before:.0f} MB for the interpreter "
        "and the masks"
    )


if __name__ == "__main__":
    main()
