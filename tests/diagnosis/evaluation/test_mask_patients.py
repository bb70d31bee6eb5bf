"""Test patients from whom the networks that made their masks have learned are noted or excluded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.diagnosis.evaluation.mask_patients import find_mask_patients
from qmri_lake.diagnosis.evaluation.prediction_metrics import evaluate
from qmri_lake.errors import InputError
from qmri_lake.execution.step import load_steps
from qmri_lake.lake import Lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.runs import read_runs, write_run
from qmri_lake.store.transaction import Transaction, declare
from tests.fixtures import add_clinical, add_dess, array_lake
from tests.segmentation.networks import tiny, write_network

EXAMS = 32
"""Four exams of each of 8 patients."""
FIRST = 9000001


def add_masks(lake: Lake, runs: dict[int, dict[str, object]], made: dict[str, list[int]]) -> Lake:
    """Set the runs that made the masks of each exam, 0 for none, without any mask."""

    def build(session):
        change = Transaction(runs={number: {"version": "1", **run} for number, run in runs.items()})
        for step, numbers in made.items():
            for row, number in enumerate(numbers):
                if number:
                    change.set_state(step, row, "done", number)
        change(session)

    commit(lake.repo, build, "Add masks")
    return lake.refresh()


def by_networks(step: str, patients: list[int] | None, *unknown: str) -> dict[str, object]:
    """Record of a segmentation; `patients` is None for a run of an earlier version."""
    models = ["bone_3d-1@0123-45", *unknown]
    record: dict[str, object] = {"step": step, "parameters": {"models": models}}
    if patients is not None:
        record["learned_from"] = {"patients": patients, "unknown": list(unknown)}
    return record


IMPORT = {"step": "import", "parameters": {}}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake of KL grades and predictions."""
    lake = add_clinical(
        array_lake(tmp_path / "oai.lake", EXAMS),
        kl=np.arange(EXAMS) // 4 % 4,
        replaced=np.zeros(EXAMS),
    )

    def build(session):
        root = open_root(session.store, "r+")
        made = [v for v in REGISTRY.group("prediction") if v.step == "predict_oa"]
        declare(root, made, {dim: n for v in made for dim, n in v.sizes.items()})
        shape = root["prediction/oa"].shape
        root["prediction/oa"][...] = np.random.default_rng(0).random(shape).astype(np.float32)
        change = Transaction(runs={3: {"step": "predict_oa", "parameters": {}, "version": "1"}})
        for row in range(EXAMS):
            change.set_state("predict_oa", row, "done", 3)
        change(session)

    load_steps()
    commit(lake.repo, build, "Add predictions")
    return lake.refresh()


def test_evaluate__notes_test_patients_from_whom_the_networks_learned(lake: Lake) -> None:
    bones = by_networks("segment_bones", [FIRST, FIRST + 1, 9999999])
    cartilage = by_networks("segment_cartilage", [FIRST + 1, FIRST + 2])
    lake = add_masks(
        lake,
        {7: bones, 8: cartilage},
        {"segment_bones": [7] * EXAMS, "segment_cartilage": [8] * EXAMS},
    )
    found = evaluate(lake.cohort(), "oa", n_resamples=5)
    sentence = (
        "3 of 8 test patients (6 exams) were used to train the networks that made their masks."
    )
    assert found.notes == (sentence,)
    assert sentence in found.table().text()
    assert sentence in found.table().html()
    rest = evaluate(lake.cohort(), "oa", n_resamples=5, mask_patients="exclude")
    assert rest.notes == ()
    assert rest.labelled.cohort.patients == 5
    assert "12 excluded: patient was used to train the networks that made the masks" in (
        rest.labelled.cohort.flow()["why"].tolist()
    )
    with pytest.raises(InputError, match=r"mask_patients='drop' \(expected note or exclude"):
        evaluate(lake.cohort(), "oa", mask_patients="drop")  # type: ignore[arg-type]


def test_evaluate__notes_nothing_if_no_patient_is_shared(lake: Lake) -> None:
    runs = {7: by_networks("segment_bones", [1]), 8: by_networks("segment_cartilage", [2])}
    made = {"segment_bones": [7] * EXAMS, "segment_cartilage": [8] * EXAMS}
    assert evaluate(add_masks(lake, runs, made).cohort(), "oa", n_resamples=5).notes == ()


def test_find_mask_patients__counts_exams_for_which_it_is_not_known(lake: Lake) -> None:
    """Imported masks, runs of earlier versions, own networks, and maps without masks."""
    runs = {
        7: by_networks("segment_bones", [FIRST]),
        8: by_networks("segment_cartilage", None),
        9: IMPORT,
        10: by_networks("segment_cartilage", [FIRST + 6], "mine@1"),
    }
    made = {
        "segment_bones": [7] * 8 + [9] * 4 + [7] * 16 + [0] * 4,
        "segment_cartilage": [8] * 8 + [9] * 4 + [10] * 16 + [0] * 4,
    }
    found = find_mask_patients(add_masks(lake, runs, made).cohort())
    assert np.flatnonzero(found.learned).tolist() == [0, 1, 2, 3, *range(24, 28)]
    assert (found.patients, found.of) == (2, 8)
    assert found.unknown == {
        "imported masks": 4,
        "masks by bone_3d-1@0123-45, whose patients are not listed": 4,
        "masks by mine@1, whose patients are not listed": 12,
        "no bone masks in the lake": 4,
    }
    assert len(found.notes) == 2
    assert "no bone masks in the lake (4)" in found.notes[1]


def test_find_mask_patients__uses_the_masks_from_which_the_maps_were_made(lake: Lake) -> None:
    """The knees were segmented again, by other networks, after the maps had been computed."""
    runs = {
        6: by_networks("segment_bones", [FIRST]),
        7: by_networks("segment_bones", [FIRST + 1]),
        8: by_networks("segment_cartilage", []),
    }
    made = {"segment_bones": [7] * EXAMS, "segment_cartilage": [8] * EXAMS}
    lake = add_masks(lake, runs, made)

    def map_first(session):
        change = Transaction(runs={9: {"step": "sphere", "parameters": {}, "version": "1"}})
        for row in range(EXAMS - 4):
            change.set_state("sphere", row, "done", 9, "", {"segment_bones": 6})
        change(session)

    commit(lake.repo, map_first, "Add maps of earlier masks")
    cohort = lake.refresh().cohort()
    assert {*cohort.exams["patient"][find_mask_patients(cohort).learned]} == {FIRST}


def test_segment_bones__records_the_patients_of_the_training(tmp_path: Path) -> None:
    """A run names the patients, and a derived lake only its own; folders serve older runs."""
    lake = add_dess(array_lake(tmp_path / "oai.lake", 12))
    exams = lake.exams["exam"].tolist()
    folder = write_network(tmp_path / "bone_3d-1", tiny())
    card = json.loads((folder / "card.json").read_text())
    split = {"train": exams[:1], "validation": exams[4:5], "test": exams[8:9]}
    (folder / "card.json").write_text(json.dumps({**card, "split": split}))
    lake.run("segment_bones", lake.exams["exam"].tolist()[:11], models=folder)
    (number,) = [n for n, run in read_runs(lake.root).items() if run["step"] == "segment_bones"]
    record = read_runs(lake.root)[number]
    assert record["learned_from"] == {"patients": [FIRST, FIRST + 1], "unknown": []}
    assert lake.plan("segment_bones", models=folder).stale == 0
    segmented = lake.cohort().require("dess/bone")
    found = find_mask_patients(segmented)
    assert set(segmented.exams["patient"][found.learned]) == {FIRST, FIRST + 1}

    first = segmented.where(f"patient == {FIRST}")
    study = lake.derive(str(tmp_path / "study.lake"), first, ["dess/bone"])
    assert read_runs(study.root)[number]["learned_from"]["patients"] == [FIRST]
    assert find_mask_patients(study.cohort()).learned.all()
    listed = lake.identifiers().set_index(["place", "kind"])["count"]
    assert listed["status/runs", "patient number"] == 2

    def forget(session):
        del record["learned_from"]
        write_run(open_root(session.store, "r+"), number, record)

    commit(lake.repo, forget, "A run of an earlier version")
    segmented = lake.refresh().cohort().require("dess/bone")
    assert not find_mask_patients(segmented).learned.any()
    assert sum(find_mask_patients(segmented).unknown.values()) == len(segmented)
    again = find_mask_patients(segmented, [folder])
    assert again.learned.tolist() == found.learned.tolist()
    assert set(again.unknown) <= {"no cartilage masks in the lake"}
