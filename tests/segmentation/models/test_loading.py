"""Networks that cannot be loaded: the run ends before the first exam, without changes."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from qmri_lake.core.model_folder import CARD
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.run import RunStarted
from qmri_lake.lake import open_lake
from qmri_lake.segmentation.models.members import open_members
from qmri_lake.segmentation.models.network import WEIGHTS, Network, find_networks
from qmri_lake.segmentation.models.recipes import recipes
from qmri_lake.segmentation.models.vnet import Architecture, build_vnet
from qmri_lake.segmentation.models.weights import shapes
from qmri_lake.store.status import read_status
from tests.segmentation.networks import tiny, write_network
from tests.segmentation.scored_lake import lake_of


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """Three exams whose bones are segmented by a network, and stale for any other; not changed."""
    root = tmp_path_factory.mktemp("loading")
    lake = lake_of(root / "exams.lake", 3, kinds=())
    lake.run("segment_bones", models=write_network(root / "first", tiny(), 1))
    return lake.refresh()


@pytest.fixture
def lake(segmented, tmp_path):
    """A new lake with the same exams."""
    return open_lake(shutil.copytree(segmented.url, tmp_path / "exams.lake"))


@pytest.fixture
def folder(tmp_path):
    return write_network(tmp_path / "second", tiny(), 2)


def masks(lake):
    return lake.refresh().load("dess").bone.values


def _other_weights(folder):
    build_vnet(tiny(channels=4).architecture).save_weights(folder / WEIGHTS)


def _other_rank(folder):
    build_vnet(tiny(rank=2).architecture).save_weights(folder / WEIGHTS)


def _cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def _other_classes(folder):
    card = json.loads((folder / CARD).read_text())
    card["classes"] = {"background": 0, "femur": 1}
    (folder / CARD).write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (shutil.rmtree, NotFoundError, "no card.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), NotFoundError, "no model.weights.h5"),
        (_other_weights, InputError, "weights that don't fit .*Put the weights beside the card"),
        (_other_rank, InputError, "weights that don't fit"),
        (_cut, InputError, "weights that can't be read"),
        (_other_classes, InputError, r"classes background, femur \(expected"),
    ],
    ids=["folder", "file", "channels", "rank", "cut", "classes"],
)
def test_run__rejects_networks_that_cannot_be_opened(segmented, folder, spoil, kind, message):
    before = segmented.snapshot
    spoil(folder)
    with pytest.raises(kind, match=message):
        segmented.run("segment_bones", models=folder)
    assert segmented.refresh().snapshot == before


@pytest.mark.parametrize("spoil", [shutil.rmtree, _other_weights], ids=["folder", "weights"])
def test_run__rejects_open_networks_that_have_changed(segmented, folder, spoil):
    before, members = segmented.snapshot, open_members(folder)
    spoil(folder)
    with pytest.raises((NotFoundError, InputError), match="when the network was opened"):
        segmented.run("segment_bones", models=members)
    assert segmented.refresh().snapshot == before


def test_run__no_keras_backend(segmented, folder, monkeypatch):
    before = segmented.snapshot
    monkeypatch.setenv("KERAS_BACKEND", "absent")
    with pytest.raises(RunError, match=r"no absent \(expected Keras with absent"):
        segmented.run("segment_bones", models=folder)
    assert segmented.refresh().snapshot == before


@pytest.mark.parametrize("cluster", [False, True], ids=["here", "cluster"])
def test_run__ends_if_networks_disappear_during_the_run(lake, folder, cluster):
    """No exam fails, so existing masks are kept."""
    before = masks(lake)

    def remove(event):
        if isinstance(event, RunStarted):
            shutil.rmtree(folder)

    with ExitStack() as stack:
        client = None
        if cluster:
            client = stack.enter_context(
                Client(processes=False, n_workers=1, dashboard_address=None)
            )
        with pytest.raises(RunError, match="Keep this folder until the run ends"):
            lake.run("segment_bones", models=folder, cluster=client, listeners=[remove])
    assert np.array_equal(masks(lake), before)
    assert read_status(lake.root, "segment_bones", 3).usable.all()
    assert lake.failures("segment_bones").query("state == 'failed'").empty
    # The run succeeds when the networks are back.
    write_network(folder, tiny(), 2)
    assert sum(lake.run("segment_bones", models=folder).counts.values()) == 3


def test_run__only_exams_with_another_voxel_size_fail(lake, folder):
    card = json.loads((folder / CARD).read_text()) | {"spacing": [0.75, 0.375, 0.375]}
    (folder / CARD).write_text(json.dumps(card))
    network = Network.open(folder)
    found = lake.run("segment_bones", models=network, variant="right")
    assert (found.failed, sum(found.counts.values())) == (0, 3)
    far = replace(network, spacing=(0.75, 0.375, 0.5))
    found = lake.run("segment_bones", models=far, variant="far")
    assert found.failed == 3
    message = lake.failures("segment_bones__far")["message"].iloc[0]
    assert "voxels of 0.75 x 0.375 x 0.375 mm (expected 0.75 x 0.375 x 0.5 mm" in message


@pytest.mark.parametrize(
    "architecture",
    [
        *(replace(r.architecture, channels=2) for r in recipes("cartilage")[:2]),
        recipes("bones", "small")[0].architecture,
        Architecture(2, 3, 3, (2, 1), 2, 1),
    ],
    ids=["paper 2D", "paper 3D", "small", "odd"],
)
def test_shapes__are_those_of_the_model(architecture):
    weights = build_vnet(architecture).weights
    assert sorted(shapes(architecture)) == sorted(tuple(w.shape) for w in weights)


def test_open_members__rejects_weights_of_another_architecture(folder):
    _other_weights(folder)
    with pytest.raises(InputError) as caught:
        open_members(folder)
    assert caught.value.reason is Reason.MODEL_MISMATCH


def test_find_networks__error_for_a_folder_without_a_network(tmp_path: Path) -> None:
    def message_of(folder: Path) -> str:
        with pytest.raises(NotFoundError, match=r"no card\.json") as caught:
            find_networks(folder)
        return str(caught.value)

    write_network(tmp_path / "models" / "bones" / "0", tiny("bones"), 0)
    assert "Give the folder of one ensemble: bones." in message_of(tmp_path / "models")
    stopped = tmp_path / "stopped" / "bone_3d-1"
    stopped.mkdir(parents=True)
    (stopped / "checkpoint.npz").write_bytes(b"")
    for folder in (stopped, stopped.parent):
        assert "with --resume" in message_of(folder)
    assert "Train a network" in message_of(tmp_path)
