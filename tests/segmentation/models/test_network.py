"""Networks on disk: agreement of both backends, and the memory of a full-size exam."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.core import processor
from qmri_lake.errors import RunError
from qmri_lake.segmentation.models import backend as backends
from qmri_lake.segmentation.models.backend import backend_name
from qmri_lake.segmentation.models.memory import projected_bytes
from qmri_lake.segmentation.models.network import Network, find_networks
from qmri_lake.segmentation.models.recipes import recipes
from tests.segmentation.networks import needs_bfloat16, tiny, write_network

ROOT = Path(__file__).parents[3]

_PREDICT = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from qmri_lake.segmentation.models.backend import backend_name, channel_axis
from qmri_lake.segmentation.models.forward import compute_logits
from qmri_lake.segmentation.models.network import Network, _cached_model
from qmri_lake.segmentation.models.vnet import Architecture
from tests.segmentation.networks import tiny, write_network

root, backend = Path(sys.argv[1]), sys.argv[2]
assert backend_name() == backend
image = np.random.default_rng(0).uniform(0, 3, (20, 24, 37)).astype(np.float32)
for rank in (2, 3):
    folder = root / f"{rank}d"
    if backend == sys.argv[3]:
        wide = Architecture(rank, 5, 6, (1, 2, 3), 3, 5)
        write_network(folder, replace(tiny("cartilage", rank), architecture=wide), 4)
    network = Network.open(folder)
    np.save(root / f"{rank}d-{backend}.npy", network.predict(image))
    batch = np.expand_dims(image[:8, :16, :16] if rank == 2 else image[None, :8, :16, :16],
                           channel_axis())
    model = _cached_model(network)
    logits = compute_logits(model, batch, network.recipe.architecture, network.dtype)
    assert np.array_equal(logits, model.predict_on_batch(batch))
"""

_FULL_SIZE = """
import sys
import time
import numpy as np
import xarray as xr
from scipy import ndimage
from qmri_lake.execution.step import find_step

shape = tuple(int(n) for n in sys.argv[2].split("x"))
noise = np.random.default_rng(0).uniform(0, 100, [n // 8 for n in shape]).astype(np.float32)
image = ndimage.zoom(noise, 8, order=1)
affine = np.eye(4)
affine[:3, :3] = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ np.diag([0.7, 0.36, 0.36])
volume = ("slice", "row", "column")
dess = xr.Dataset({"image": (volume, image), "affine": (("world", "voxel"), affine)},
                  {"knee": "left"})
start = time.perf_counter()
found = find_step("segment_bones")(dess, models=sys.argv[1], dtype=sys.argv[3])
seconds = time.perf_counter() - start
assert found.bone.shape == shape
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024)
"""


def _python(code: str, *arguments: str, backend: str, timeout: int = 120) -> str:
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.accept
@pytest.mark.parametrize("trained", ["tensorflow", "torch"])
def test_predict__is_the_same_under_tensorflow_and_torch(tmp_path, judge, trained):
    other = {"tensorflow": "torch", "torch": "tensorflow"}[trained]
    for backend in (trained, other):
        _python(_PREDICT, str(tmp_path), backend, trained, backend=backend)
    largest = {}
    for rank in (2, 3):
        there, here = (np.load(tmp_path / f"{rank}d-{b}.npy") for b in (trained, other))
        assert there.shape == (5, 20, 24, 37)
        np.testing.assert_allclose(there.sum(axis=0), 1, atol=1e-5)
        assert there.std() > 0.01
        largest[rank] = float(np.abs(there - here).max())
    judge(
        f"V-Net / weights saved under {trained}, loaded under {other}",
        required="probabilities within 1e-4",
        measured=f"2D {largest[2]:.1e}, 3D {largest[3]:.1e}",
        passed=max(largest.values()) <= 1e-4,
    )


def test_predict__odd_sizes_are_padded_and_cropped_back(tmp_path):
    network = Network.open(write_network(tmp_path / "a", tiny()))
    image = np.random.default_rng(0).uniform(1, 2, (7, 9, 11)).astype(np.float32)
    found = network.predict(image)
    assert found.shape == (4, 7, 9, 11)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    # One stride: a voxel of padding before is one after, for an even size.
    even = network.predict(np.pad(image, [(0, 1)] * 3, mode="edge"))
    np.testing.assert_allclose(found, even[:, :7, :9, :11], atol=1e-6)


def test_predict__a_2d_network_computes_slice_by_slice(tmp_path):
    network = Network.open(write_network(tmp_path / "a", tiny(rank=2)))
    image = np.random.default_rng(0).uniform(1, 2, (19, 8, 8)).astype(np.float32)
    whole = network.predict(image)
    assert whole.shape == (4, 19, 8, 8)
    np.testing.assert_allclose(network.predict(image[17:18]), whole[:, 17:18], atol=1e-6)


def test_find_networks__of_a_folder_of_networks(tmp_path):
    for n, name in enumerate("ab"):
        write_network(tmp_path / name, tiny(), n)
    found = find_networks(tmp_path)
    assert [network.name for network in found] == ["a", "b"]
    assert find_networks([found[1], tmp_path / "a"]) == found[::-1]
    assert find_networks(str(tmp_path / "a"), task="bones") == found[:1]


_TRACES = """
import sys
from pathlib import Path
import numpy as np
from qmri_lake.segmentation.models import forward
from qmri_lake.segmentation.models import network as networks
from tests.segmentation.networks import tiny, write_network

root = Path(sys.argv[1])
image = np.random.default_rng(0).random((16, 24, 24)).astype(np.float32)
for task, rank in (("bones", 3), ("cartilage", 3), ("cartilage", 2)):
    for seed in range(3):
        folder = write_network(root / f"{task}{rank}-{seed}", tiny(task, rank), seed)
        network = networks.Network.open(folder)
        whole, part = network.predict(image), network.predict(image[:10, :20])
        model = networks._cached_model(network)
        assert model.predict_function is None
        flat = image[..., None] if rank == 2 else image[None, ..., None]
        logits = forward.compute_logits(model, flat, network.recipe.architecture, network.dtype)
        assert np.array_equal(logits, model.predict_on_batch(flat))
        networks.forget(network)
print(len(forward._FORWARD))
"""


def test_predict__traces_once_for_all_networks_of_an_architecture(tmp_path):
    assert _python(_TRACES, str(tmp_path), backend="tensorflow") == "3\n"


_LEFT_OVER = """
import gc, sys, weakref
import numpy as np
from qmri_lake.segmentation.models import network as networks

network = networks.Network.open(sys.argv[1])
network.predict(np.ones((16, 24, 24), np.float32))
model = weakref.ref(networks._cached_model(network))
networks.forget(network)
gc.collect()
assert model() is None
"""


@pytest.mark.accept
def test_forget__frees_the_model(tmp_path):
    _python(_LEFT_OVER, str(write_network(tmp_path / "a", tiny())), backend="tensorflow")


def test_load__refuses_bfloat16_that_a_cpu_would_emulate(tmp_path, monkeypatch):
    folder = write_network(tmp_path / "a", tiny())
    monkeypatch.setattr(backends, "_on_gpu", lambda: False)
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(RunError, match=r"with AVX-512 only.*dtype=\"float32\""):
        Network.open(folder, dtype="mixed_bfloat16").load()
    Network.open(folder).load()
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx2", "amx_bf16"}))
    backends.check_dtype("mixed_bfloat16")
    monkeypatch.setattr(processor, "_flags", frozenset)
    monkeypatch.setattr(backends, "_on_gpu", lambda: True)
    backends.check_dtype("mixed_bfloat16")


@pytest.mark.accept
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_segment_bones__a_full_size_exam_through_a_paper_network(tmp_path, judge, dtype):
    folder = write_network(tmp_path / "paper", recipes("bones", "paper")[0])
    shape = (160, 384, 384)
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[dtype]
    projected = projected_bytes([Network.open(folder, dtype=policy)], shape)
    seconds, peak = map(
        float,
        _python(
            _FULL_SIZE, str(folder), "160x384x384", dtype, backend=backend_name(), timeout=800
        ).split(),
    )
    judge(
        f"Segmentation / 160 x 384 x 384 through one paper network, {dtype}, this CPU",
        required=f"peak memory at most the projected {projected / 1e9:.1f} GB",
        measured=f"{peak / 1e9:.1f} GB, {seconds:.0f} s",
        passed=peak <= projected,
    )
