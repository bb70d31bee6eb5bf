"""Compare loading spherical images from a lake or a packed cache with a NumPy memory map.

Usage: python -m benchmarks.loader

Maps of four synthetic knees, each stored for 48 exams, are read as images of 3 x 224 x 224 pixels
in shuffled batches of 48 images, by one process with one thread. The memory map contains the merged
images of one strategy and bone, so reading it is the minimum work of a loader. All loaders return
float32 tensors. The memory map of float16 is converted by NumPy, as in a plain loader, and by
torch, which is faster. Files are in the page cache. Times are CPU seconds, the best of seven
interleaved repeats; only their ratios are meaningful.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import qmri_lake as ql
from benchmarks.timing import best
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.diagnosis.models.batches import make_loader
from qmri_lake.execution.step import load_steps
from qmri_lake.phantom.exam_truth import exams, knee
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.steps.spherical_maps import BIOMARKERS
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from qmri_lake.surface import BONES, spherical_map

KNEES, EACH, BATCH = 4, 48, 48
SHAPE = (64, 144, 144)
BONE = "femur"


def lake_of_maps(path: Path) -> ql.Lake:
    """Create a lake with the maps of `KNEES` knees, each stored for `EACH` exams."""
    load_steps()
    lake = ql.create_lake(str(path))
    maps = np.full((KNEES, len(BONES), len(BIOMARKERS), 224, 224), np.nan, np.float32)
    for n, exam in enumerate(exams(KNEES)):
        one = knee(exam, shape=SHAPE)
        for k, bone in enumerate(BONES):
            found = spherical_map(
                one.dess_bone,
                one.dess_cartilage,
                one.dess_affine,
                bone_name=bone,
                knee=exam.side,
                t2=one.t2,
                t2_affine=one.msme_affine,
                dess_to_msme=one.dess_to_msme,
            )
            maps[n, k] = [found[name].values for name in BIOMARKERS]
    count = KNEES * EACH

    def build(session: object) -> None:
        keys = {"patient": 9000001 + np.arange(count), "timepoint": 0, "knee": "right"}
        append_exams(session, pd.DataFrame(keys))
        root, variables = open_root(session.store, "r+"), REGISTRY.group("sphere")
        declare(root, variables, {dim: n for v in variables for dim, n in v.sizes.items()})
        change = Transaction(runs={1: {"step": "import", "parameters": {}, "version": "1"}})
        for row in range(count):
            root["sphere/map"][row] = maps[row % KNEES]
            change.set_small("sphere/map_status", row, np.zeros(len(BONES), np.uint8))
        change(session)

    commit(lake.repo, build, "Add maps")
    return lake.refresh()


def compare(folder: Path, strategy: str) -> None:
    import torch

    lake = (
        lake_of_maps(folder / "maps.lake")
        if not (folder / "maps.lake").exists()
        else (ql.open_lake(str(folder / "maps.lake"), mode="r"))
    )
    selection = {"strategy": strategy, "bone": BONE}
    unpacked = SphereImages(lake.cohort(), **selection)
    packed = {
        dtype: SphereImages(lake.cohort(), **selection, cache=folder / "cache", dtype=dtype)
        for dtype in ("float16", "float32")
    }
    whole = unpacked.__getitems__(range(len(unpacked))).image.numpy()
    order = np.random.default_rng(0).permutation(len(unpacked))
    batches = np.split(order, len(order) // BATCH)
    memory_maps = {}
    for dtype in packed:
        np.save(folder / f"{dtype}.npy", whole.astype(dtype))
        memory_maps[dtype] = np.load(folder / f"{dtype}.npy", mmap_mode="r")

    def plain(dtype: str, convert: Callable[[np.ndarray], torch.Tensor]) -> Callable[[], None]:
        return lambda: [convert(memory_maps[dtype][batch]) for batch in batches] and None

    def ours(images: SphereImages) -> Callable[[], None]:
        loader = make_loader(images, batch=BATCH)
        return lambda: [batch for batch in loader] and None

    def by_numpy(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, np.float32))

    def by_torch(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array)).float()

    name = "memory map, float16"
    seconds = best(
        {
            f"{name} by NumPy": plain("float16", by_numpy),
            f"{name} by torch": plain("float16", by_torch),
            "packed cache, float16": ours(packed["float16"]),
            "memory map, float32": plain("float32", by_torch),
            "packed cache, float32": ours(packed["float32"]),
            "straight from the lake": ours(unpacked),
        },
        7,
    )
    each = {key: 1e3 * value / len(order) for key, value in seconds.items()}
    peers = (f"{name} by NumPy", f"{name} by torch", "memory map, float32")
    print(f"\n{strategy}: ms per image, and speed relative to a memory map of")
    print(f"{'':30s} {'':>8s} {'float16, NumPy':>16s} {'float16, torch':>16s} {'float32':>10s}")
    for key, value in each.items():
        ratios = [f"{each[peer] / value:.2f}x" for peer in peers]
        print(f"{key:30s} {value:8.3f} {ratios[0]:>16s} {ratios[1]:>16s} {ratios[2]:>10s}")


def main() -> None:
    import torch

    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, one process on one thread, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        for strategy in ("all", "thickness"):
            compare(Path(name), strategy)


if __name__ == "__main__":
    main()
