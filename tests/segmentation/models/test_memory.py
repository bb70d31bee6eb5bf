"""Projected GPU memory; main memory is tested with the steps and at full size."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.core.devices import gpu_count
from qmri_lake.errors import RunError
from qmri_lake.segmentation.models.custom import OwnNetwork
from qmri_lake.segmentation.models.members import open_members
from qmri_lake.segmentation.models.memory import (
    check_gpu,
    gpu_bytes,
    projected_bytes,
    projected_gpu_bytes,
)
from qmri_lake.tissues import BONE
from tests.segmentation.networks import tiny, write_network

SHAPE = (160, 384, 384)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("memory") / "a", tiny(channels=8))


def test_projected_bytes__excludes_activations_on_a_gpu(folder):
    members = open_members(folder)
    here, there = projected_bytes(members, SHAPE), projected_gpu_bytes(members, SHAPE)
    less = projected_bytes(members, SHAPE, on_gpu=True)
    activations = 8 * 4 * np.prod(SHAPE) * 5.5  # channels, bytes, arrays at once
    assert here - less >= activations
    assert there >= activations
    assert less > 12 * np.prod(SHAPE)  # image, labels and probabilities stay


def test_projected_gpu_bytes__of_the_largest_member(folder, tmp_path):
    one = projected_gpu_bytes(open_members(folder), SHAPE)
    narrow = write_network(tmp_path / "b", tiny())
    both = projected_gpu_bytes(open_members([folder, narrow]), SHAPE)
    assert one < both < 1.01 * one
    assert projected_gpu_bytes(open_members(folder, dtype="bfloat16"), SHAPE) < one


def test_projected_gpu_bytes__is_0_for_an_own_network():
    assert projected_gpu_bytes([OwnNetwork(np.ones_like, list(BONE))], SHAPE) == 0


def test_check_gpu__too_small(folder):
    members = open_members(folder)
    needed = projected_gpu_bytes(members, SHAPE)
    check_gpu(members, SHAPE, needed)
    with pytest.raises(
        RunError, match=r"\d [MG]iB of GPU memory projected .* the memory of the GPU"
    ):
        check_gpu(members, SHAPE, needed - 1)


def test_gpu_bytes__none_where_the_backend_computes_on_the_cpu():
    if gpu_count():
        pytest.skip("a GPU, on which the backend may compute")
    assert gpu_bytes() is None


@pytest.mark.gpu
def test_gpu_bytes__of_a_gpu():
    if not gpu_count():
        pytest.skip("no GPU")
    found = gpu_bytes()
    assert found is None or found > 2**30
