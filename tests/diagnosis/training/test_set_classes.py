"""Each set of a training must have cases and controls with the maps of every model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from qmri_lake.diagnosis.training.train_classifiers import train_classifiers
from qmri_lake.diagnosis.training.training_sets import resolve_sets
from qmri_lake.errors import InputError
from qmri_lake.lake import Lake
from qmri_lake.lake.balanced_split import CohortSplit, read_split, save_split
from tests.diagnosis.case_control_lake import NO_FEMUR, NO_T2, make_case_control_lake

SMALL = {"preset": "small", "epochs": 1}


def sets_of(lake: Lake, *, validation: list[int], test: list[int]) -> CohortSplit:
    """Sets of labelled exams by row; a patient has two rows."""
    rows = {"validation": validation, "test": test}
    rows["train"] = [row for row in range(len(lake)) if row not in {*validation, *test}]
    exams = lake.exams["exam"].to_numpy()
    return CohortSplit(
        *(
            lake.cohort("kl >= 0").of_exams([*exams[rows[name]]], name)
            for name in ("train", "validation", "test")
        )
    )


def rows_by_label(lake: Lake) -> tuple[list[int], list[int]]:
    """Rows of complete exams of controls and of cases, in pairs of a patient."""
    odd = {NO_FEMUR, NO_FEMUR - 1, NO_T2, NO_T2 - 1, 20, 21, 10, 11}
    kl = lake.columns(["kl"])["kl"].to_numpy(dtype=float)
    rows = [row for row in range(len(lake)) if row not in odd]
    return [r for r in rows if kl[r] < 2], [r for r in rows if kl[r] >= 2]


def test_train_classifiers__refuses_a_set_of_one_class_before_the_first_model(
    case_control_lake: Lake, tmp_path: Path
) -> None:
    controls, cases = rows_by_label(case_control_lake)
    both = controls[:2] + cases[:2]
    for name, options in (
        ("validation", {"validation": cases[2:6], "test": both}),
        ("test", {"validation": both, "test": cases[2:6]}),
    ):
        with pytest.raises(
            InputError, match=rf"sets: no controls in the {name} set \(expected"
        ) as e:
            train_classifiers(
                case_control_lake,
                "oa",
                out=tmp_path / "oa",
                sets=sets_of(case_control_lake, **options),
                **SMALL,
            )
        assert "\n" not in str(e.value)
        assert not (tmp_path / "oa").exists()


def test_train_classifiers__names_the_models_whose_maps_a_class_lacks(
    case_control_lake: Lake, tmp_path: Path
) -> None:
    """The only exam of a class in a set has no T2, or no femur."""
    controls, cases = rows_by_label(case_control_lake)
    kl = case_control_lake.columns(["kl"])["kl"].to_numpy(dtype=float)

    def refused(row: int) -> str:
        others = (cases if kl[row] < 2 else controls)[:2]
        sets = sets_of(
            case_control_lake, validation=[row, *others], test=controls[-2:] + cases[-2:]
        )
        with pytest.raises(InputError) as error:
            train_classifiers(case_control_lake, "oa", out=tmp_path / "oa", sets=sets, **SMALL)
        assert not (tmp_path / "oa").exists()
        return str(error.value)

    title = {True: "cases", False: "controls"}
    assert refused(NO_T2).startswith(
        f"sets: no {title[bool(kl[NO_T2] >= 2)]} in the validation set for t2/patella, "
        "thickness+t2/patella, all/patella and 6 more models (expected cases and controls with maps"
    )
    assert (
        f"no {title[bool(kl[NO_FEMUR] >= 2)]} in the validation set for t2/femur, thickness/femur, "
        "bone_shape/femur and 3 more models" in refused(NO_FEMUR)
    )


def test_train_classifiers__pain_of_one_class_in_the_split_of_oa(
    case_control_lake: Lake, oa_models: Path, tmp_path: Path
) -> None:
    """The split of OA may leave a set with one class of pain only."""
    _, cases = rows_by_label(case_control_lake)
    controls = rows_by_label(case_control_lake)[0]
    oa = tmp_path / "oa"
    shutil.copytree(oa_models, oa)
    sets = sets_of(case_control_lake, validation=controls[:4], test=controls[4:6] + cases[:2])
    save_split(sets, oa / "split.json")
    with pytest.raises(InputError, match=r"no cases in the validation set .*outcome="):
        train_classifiers(
            case_control_lake, "pain", out=tmp_path / "p", oa=oa, strategies=["thickness"], **SMALL
        )
    assert not (tmp_path / "p").exists()


def test_train_classifiers__the_default_split_has_both_classes(tmp_path: Path) -> None:
    """With 12 patients, half of them cases, a split that ignores labels often fails."""
    lake = make_case_control_lake(tmp_path / "oa.lake", 24)
    folders = [("thickness", "tibia")]
    for seed in range(4):
        resolve_sets(
            lake,
            tmp_path / f"{seed}",
            {"task": "oa", "seed": seed},
            models=folders,
            sets=None,
            rule="chronic",
            oa=None,
            cohort=None,
            resume=False,
        )
        sets = read_split(lake, tmp_path / f"{seed}" / "split.json")
        kl = [part.table(["kl"])["kl"].to_numpy(dtype=float) >= 2 for part in sets]
        assert all(0 < grades.sum() < len(grades) for grades in kl)


def test_train_classifiers__resumes_the_recorded_split_of_an_earlier_version(
    case_control_lake: Lake, tmp_path: Path
) -> None:
    """Earlier versions split without the outcome; the test set may have one class."""
    controls, cases = rows_by_label(case_control_lake)
    before = sets_of(case_control_lake, validation=controls[:2] + cases[:2], test=cases[2:4])
    options = {"sets": None, "rule": "chronic", "oa": None, "cohort": None}
    settings = {"task": "oa", "seed": 0}
    models = [("thickness", "tibia")]
    resolve_sets(case_control_lake, tmp_path, settings, models=models, resume=False, **options)
    save_split(before, tmp_path / "split.json")
    found = resolve_sets(
        case_control_lake, tmp_path, settings, models=models, resume=True, **options
    )
    assert found.exams["validation"] == before.validation.exams["exam"].tolist()
    assert np.isin(list(found.exams["train"]), before.train.exams["exam"]).all()
