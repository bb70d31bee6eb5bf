"""DL-guided thickness: by hand, without labels, and what it adds to compartments."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import qmri_lake as ql
from qmri_lake.diagnosis.evaluation.guided_thickness import (
    GUIDED_STATUS,
    guided_thickness,
    unseen_knees,
)
from qmri_lake.diagnosis.evaluation.thickness_models import (
    COMPARTMENTS,
    GUIDED_TERM,
    thickness_models,
)
from qmri_lake.diagnosis.labels import LabelledCohort
from qmri_lake.diagnosis.models.grad_cam import CAM_STATUS
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.lake import Lake
from qmri_lake.statistics import nested_logistic
from qmri_lake.surface import REGIONS, SURFACE_STATUS
from tests.diagnosis.lesion_lake import (
    add_people,
    add_regions,
    lesion_maps,
    make_lesion_lake,
    random_classifier,
    train_on,
)
from tests.fixtures import array_lake

EXAMS = 5


def sphere_of(count: int = EXAMS) -> xr.Dataset:
    """Group sphere of exams in memory; rows 0 to 9 of the femur are denuded."""
    made = [lesion_maps(np.random.default_rng(row), row % 2) for row in range(count)]
    maps, status = (np.stack(arrays) for arrays in zip(*made, strict=True))
    status[:, 2, :10] = np.where(status[:, 2, :10] == 1, SURFACE_STATUS["denuded"], 3)
    maps[:, 2, 1, :10] = np.where(status[:, 2, :10] == SURFACE_STATUS["denuded"], 0, np.nan)
    grid = ("azimuth", "polar")
    return xr.Dataset(
        {
            "map": (("exam", "bone", "biomarker", *grid), maps),
            "surface_status": (("exam", "bone", *grid), status),
        },
        {
            "exam": [f"{9000001 + row}-000m-right" for row in range(count)],
            "bone": ["patella", "tibia", "femur"],
            "biomarker": ["bone_shape", "thickness", "t2"],
        },
    )


def cams_of(sphere: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """Random CAMs of the femur: any weights serve."""
    count = sphere.sizes["exam"]
    values = np.random.default_rng(seed).uniform(0, 1, (count, 2, 224, 224)).astype(np.float32)
    return xr.Dataset(
        {
            "cam": (("exam", "finding", "azimuth", "polar"), values),
            "cam_status": (("exam", "finding"), np.zeros((count, 2), np.uint8)),
        },
        {
            "exam": sphere["exam"],
            "finding": ["absence", "presence"],
            "bone": "femur",
            "strategy": "thickness",
        },
    )


@pytest.mark.parametrize("finding", ["presence", "absence"])
def test_guided_thickness__equals_its_formula(finding: str) -> None:
    sphere = sphere_of()
    cams = cams_of(sphere)
    lazy = guided_thickness(sphere.chunk(exam=2), cams.chunk(exam=2), finding=finding)
    assert lazy["guided_thickness"].chunks is not None
    found = lazy.compute()
    total = guided_thickness(sphere, cams, finding=finding, within="articular")
    for row in range(EXAMS):
        thickness = sphere["map"].values[row, 2, 1].astype(float)
        cam = cams["cam"].values[row, int(finding == "presence")].astype(float)
        covered = sphere["surface_status"].values[row, 2] == SURFACE_STATUS["covered"]
        expected = (cam * thickness)[covered].sum() / cam[covered].sum()
        assert float(found["guided_thickness"][row]) == pytest.approx(expected, rel=1e-12)
        articular = np.isfinite(thickness)
        expected = (cam * thickness)[articular].sum() / cam[articular].sum()
        assert float(total["guided_thickness"][row]) == pytest.approx(expected, rel=1e-12)
    assert (found["guided_status"] == GUIDED_STATUS["measured"]).all()
    assert (found["bone"].item(), found["finding"].item()) == ("femur", finding)
    assert (found["within"].item(), total["within"].item()) == ("covered", "articular")


def test_guided_thickness__of_an_even_cam_is_the_mean(judge) -> None:
    sphere = sphere_of()
    cams = cams_of(sphere)
    cams["cam"][:] = 0.3
    found = guided_thickness(sphere, cams)["guided_thickness"]
    femur = sphere.sel(bone="femur")
    covered = femur["surface_status"] == SURFACE_STATUS["covered"]
    mean = femur["map"].sel(biomarker="thickness").astype(float).where(covered)
    mean = mean.mean(("azimuth", "polar"))
    worst = float(abs(found - mean).max())
    judge(
        "DL-guided thickness / a uniform CAM",
        required="the mean over cartilage, to 1e-6 mm",
        measured=f"{worst:.1e} mm",
        passed=worst < 1e-6,
    )


def test_guided_thickness__no_value_is_nan_with_its_reason() -> None:
    sphere = sphere_of()
    cams = cams_of(sphere)
    cams["cam"][0, 1], cams["cam_status"][0, 1] = np.nan, CAM_STATUS["zero"]
    cams["cam"][1, 1], cams["cam_status"][1, 1] = np.nan, CAM_STATUS["no_map"]
    sphere["surface_status"][2, 2] = SURFACE_STATUS["not_articular"]
    cams["cam"][3, 1] = cams["cam"][3, 1].where(
        sphere["surface_status"][3, 2] == SURFACE_STATUS["not_articular"], 0
    )
    found = guided_thickness(sphere, cams)
    names = {value: name for name, value in GUIDED_STATUS.items()}
    assert [names[int(state)] for state in found["guided_status"]] == [
        "zero",
        "no_map",
        "no_cartilage",
        "zero",
        "measured",
    ]
    assert found["guided_thickness"].isnull().values.tolist() == [True] * 4 + [False]


def test_guided_thickness__does_not_use_labels() -> None:
    """Weights must not depend on the label of a knee: there is no argument for one."""
    allowed = {"sphere", "cams", "finding", "within"}
    assert set(inspect.signature(guided_thickness).parameters) == allowed
    sphere = sphere_of()
    cams = cams_of(sphere)
    with pytest.raises(NotFoundError, match="no CAM of"):
        guided_thickness(sphere, cams, finding=["presence", "absence"])  # type: ignore[arg-type]
    assert guided_thickness(sphere, cams)["finding"].shape == ()


def test_guided_thickness__refuses_maps_of_other_exams() -> None:
    sphere = sphere_of()
    cams = cams_of(sphere)
    with pytest.raises(InputError, match="the 5 exams of the maps differ from the 5 of the CAMs"):
        guided_thickness(sphere.isel(exam=[1, 0, 2, 3, 4]), cams)
    with pytest.raises(InputError, match="expected covered or articular"):
        guided_thickness(sphere, cams, within="all")  # type: ignore[arg-type]


def test_unseen_knees__excludes_patients_of_the_training_data(tmp_path: Path) -> None:
    """16 exams: 4 patients with two knees at two visits."""
    lake = array_lake(tmp_path / "oai.lake", 16)
    exams = [str(exam) for exam in lake.exams["exam"]]
    models = [random_classifier(tmp_path / f"{k}", learned_from=(exams[4 * k],)) for k in (0, 1)]
    for label in (np.arange(16) % 2, 1 - np.arange(16) % 2):
        found = unseen_knees(LabelledCohort(lake.cohort(), label, "pain"), models)
        assert found.cohort.exams["exam"].tolist() == ["9000003-024m-right", "9000004-024m-right"]
        assert found.label.tolist() == label[[10, 14]].tolist()
    assert found.cohort.flow()["why"].tolist()[-3:] == [
        "8 excluded: patient is in the training data",
        "4 excluded: earlier timepoint of the same patient",
        "2 excluded: left knee of a patient with two",
    ]
    left = LabelledCohort(lake.cohort("knee == 'left'"), np.zeros(8, int), "pain")
    assert set(unseen_knees(left, models).cohort.exams["knee"]) == {"left"}
    everyone = random_classifier(tmp_path / "all", learned_from=tuple(exams))
    with pytest.raises(InputError, match="all 4 patients are in the training data"):
        unseen_knees(LabelledCohort(lake.cohort(), np.arange(16) % 2, "pain"), [everyone])


COUNT = 150


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Lake, dict[str, np.ndarray], LabelledCohort, list[xr.Dataset]]:
    """Knees with pain that depends on the CAM-weighted thickness, not only on compartments."""
    rng = np.random.default_rng(0)
    names = [name for bone in COMPARTMENTS.values() for name in bone]
    thickness = {name: 2 + rng.normal(0, 0.3, COUNT) for name in names}
    lake = people(tmp_path_factory.mktemp("guided") / "oai.lake")
    lake = add_people(add_regions(lake, thickness), seed=1)
    value = {"femur": rng.normal(2, 0.3, COUNT), "tibia": rng.normal(2, 0.3, COUNT)}
    odds = -5 * (value["femur"] - 2) - (thickness["MF"] - 2)
    label = (rng.random(COUNT) < 1 / (1 + np.exp(-odds))).astype(int)
    exams = [str(exam) for exam in lake.exams["exam"]]
    guided = [
        xr.Dataset({"guided_thickness": ("exam", v)}, {"exam": exams, "bone": bone})
        for bone, v in value.items()
    ]
    guided[1]["guided_thickness"][:4] = np.nan
    return lake, thickness, LabelledCohort(lake.cohort(), label, "pain (chronic)"), guided


def people(path: Path) -> Lake:
    """A lake of right knees at baseline, one per patient, without maps."""
    lake, _ = make_lesion_lake(path, COUNT, maps=False)
    return lake


def test_thickness_models__are_nested_models_of_the_bones_compartments(measured) -> None:
    _, thickness, labelled, guided = measured
    found = thickness_models(labelled, guided)
    assert list(found) == ["femur", "tibia"]
    base = pd.DataFrame({name: thickness[name].astype(np.float32) for name in ("TrF", "MF", "LF")})
    added = pd.Series(guided[0]["guided_thickness"].values, name=GUIDED_TERM)
    expected = nested_logistic(labelled.label, base, added)
    assert found["femur"].p == pytest.approx(expected.p)
    assert found["femur"].p < 1e-6
    assert found["tibia"].p > 0.01
    assert found["tibia"].left_out == 4
    assert list(found["tibia"].m1.index) == ["constant", "MT", "LT", GUIDED_TERM]
    more = thickness_models(labelled, guided[:1], covariates=("age", "sex", "bmi"))["femur"]
    terms = ["constant", "age", "female", "bmi", "TrF", "MF", "LF"]
    assert list(more.m0.index) == terms
    clustered = thickness_models(labelled, guided[:1], clustered=True)["femur"]
    assert clustered.patients == COUNT


@pytest.fixture(scope="module")
def denuded(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Lake, LabelledCohort, xr.Dataset, xr.Dataset]:
    """Knees with pain that depends on the denuded area of the tibia, and random CAMs.

    Such CAMs have no information, so DL-guided thickness must not explain pain.
    """
    rng = np.random.default_rng(3)
    bare = rng.uniform(0, 0.5, (COUNT, 2))  # denuded part of the lateral and of the medial half
    depth = rng.normal(2, 0.2, (COUNT, 2))
    size = (6, 40)
    maps, status = np.empty((COUNT, 1, 1, *size)), np.empty((COUNT, 1, *size), int)
    covered = np.arange(size[1]) >= np.round(bare * size[1])[:, :, None]
    for half, rows in enumerate((slice(0, 3), slice(3, 6))):
        maps[:, 0, 0, rows] = np.where(covered[:, half], depth[:, half, None], 0)[:, None]
        state = np.where(covered[:, half], SURFACE_STATUS["covered"], SURFACE_STATUS["denuded"])
        status[:, 0, rows] = state[:, None]
    grid = ("azimuth", "polar")
    total = maps[:, 0, 0].reshape(COUNT, 2, -1).mean(axis=-1)
    label = (rng.random(COUNT) < 1 / (1 + np.exp(8 * (total.mean(axis=1) - 1.5)))).astype(int)
    lake = people(tmp_path_factory.mktemp("denuded") / "oai.lake")
    names = ("LT", "MT")
    lake = add_regions(
        lake, dict(zip(names, depth.T, strict=True)), dict(zip(names, total.T, strict=True))
    )
    exams = [str(exam) for exam in lake.exams["exam"]]
    sphere = xr.Dataset(
        {
            "map": (("exam", "bone", "biomarker", *grid), maps),
            "surface_status": (("exam", "bone", *grid), status),
        },
        {"exam": exams, "bone": ["tibia"], "biomarker": ["thickness"]},
    )
    weight = rng.uniform(0.5, 1.5, (COUNT, 1, size[0], 1)).astype(np.float32)
    cams = xr.Dataset(
        {
            "cam": (("exam", "finding", *grid), np.broadcast_to(weight, (COUNT, 1, *size))),
            "cam_status": (("exam", "finding"), np.zeros((COUNT, 1), np.uint8)),
        },
        {"exam": exams, "finding": ["presence"], "bone": "tibia", "strategy": "thickness"},
    )
    return lake, LabelledCohort(lake.cohort(), label, "pain (chronic)"), sphere, cams


def test_thickness_models__denuded_bone_is_no_finding_of_a_random_cam(denuded, judge) -> None:
    """Means over the covered area in M0 would make the denuded area a finding of any CAM."""
    lake, labelled, sphere, cams = denuded
    guided = guided_thickness(sphere, cams, within="articular")
    found = thickness_models(labelled, [guided])["tibia"]
    region = lake.load("region").thickness.sel(region=["MT", "LT"]).to_pandas()
    added = pd.Series(guided["guided_thickness"].values, region.index, name=GUIDED_TERM)
    mixed = nested_logistic(labelled.label, region, added)
    judge(
        "DL-guided thickness / denuded bone and random CAMs",
        required="over the articular area in both models: p > 0.05; mixed with means over the "
        "covered area, as before: p < 1e-6",
        measured=f"p {found.p:.2f}; mixed p {mixed.p:.1e}",
        passed=found.p > 0.05 and mixed.p < 1e-6,
    )
    covered = thickness_models(labelled, [guided_thickness(sphere, cams)])["tibia"]
    assert covered.p > 0.05


def test_thickness_models__refuse_means_over_an_unknown_area(denuded) -> None:
    _, labelled, sphere, cams = denuded
    guided = guided_thickness(sphere, cams)
    with pytest.raises(InputError, match=r"DL-guided thickness within 'all' \(expected covered or"):
        thickness_models(labelled, [guided.assign_coords(within="all")])


def test_thickness_models__exams_are_found_by_their_keys(measured) -> None:
    _, _, labelled, guided = measured
    mixed = [one.isel(exam=np.random.default_rng(0).permutation(COUNT)) for one in guided]
    assert thickness_models(labelled, mixed)["femur"].p == pytest.approx(
        thickness_models(labelled, guided)["femur"].p
    )
    with pytest.raises(InputError, match="3 labelled exams without DL-guided thickness, first"):
        thickness_models(labelled, [guided[0].isel(exam=slice(3, None))])
    with pytest.raises(InputError, match="femur twice"):
        thickness_models(labelled, [guided[0], guided[0]])


def test_thickness_models__refuse_patients_of_the_training_data(measured) -> None:
    _, _, labelled, guided = measured
    learned = guided[0].assign(learned_from=("exam", np.arange(COUNT) == 7))
    with pytest.raises(InputError, match=r"1 exam of patients.*first 9000008-000m-right"):
        thickness_models(labelled, [learned])


def test_thickness_models__require_one_exam_per_patient(tmp_path: Path, measured) -> None:
    lake = array_lake(tmp_path / "oai.lake", 16)
    labelled = LabelledCohort(lake.cohort(), np.arange(16) % 2, "pain")
    with pytest.raises(InputError, match=r"16 exams of 4 patients \(expected one exam per patient"):
        thickness_models(labelled, measured[3])
    with pytest.raises(NotFoundError, match="no group 'region'"):
        thickness_models(labelled, measured[3], clustered=True)


def test_association_table__text_html_and_latex_agree(measured) -> None:
    from xml.etree import ElementTree

    _, _, labelled, guided = measured
    table = ql.report.association_table(thickness_models(labelled, guided), exams="150 <x> & y")
    numbers = table.numbers.set_index("bone")
    assert list(numbers.index) == ["femur", "tibia"]
    assert numbers["paper"].tolist() == [7.0e-33, 1.9e-14]
    row = numbers.loc["femur"]
    words = [
        f"{row.cases:.0f} / {row.controls:.0f}",
        f"{row.odds_ratio:.2f} ({row.low:.2f}–",
        f"{row.statistic:.1f} (1)",
        "TrF, MF, LF",
    ]
    assert row.odds_ratio < 0.5
    page = "".join(ElementTree.fromstring(table.html().replace("&#160;", " ")).itertext())
    for text in (table.text(), page, table.latex().replace("--", "–")):
        for word in (*words, "likelihood ratio", "medial condyle"):
            assert word in text
        assert "nan" not in text
    assert "7.0e-33" in table.text()
    assert r"$7.0\times10^{-33}$" in table.latex()
    assert "7.0 × 10-33" in page
    assert "150 <x> & y" in page
    assert r"150 $<$x$>$ \& y" in table.latex()
    assert set(REGIONS) > {"TrF", "MT"}


def test_association_table__a_bone_without_a_model_is_a_dash(measured) -> None:
    _, _, labelled, guided = measured
    models = thickness_models(labelled, guided[:1])
    table = ql.report.association_table(models)
    assert table.text().splitlines()[5].split() == ["tibia", *["–"] * 6, "1.9e-14"]
    with pytest.raises(NotFoundError, match=r"bone 'femor'.*Did you mean 'femur'"):
        ql.report.association_table({"femor": models["femur"]})
    with pytest.raises(InputError, match="0 models"):
        ql.report.association_table({})


@pytest.mark.accept
@pytest.mark.timeout(1800)
def test_thickness_models__p_is_uniform_for_permuted_labels(tmp_path: Path, judge) -> None:
    """Labels are permuted before the training, so CAMs are unrelated to pain."""
    count, runs = 150, 20
    lake, label = make_lesion_lake(tmp_path / "oai.lake", count)
    thickness = lake.load("sphere")["map"].sel(bone="femur", biomarker="thickness")
    half = thickness["azimuth"] > 0
    sides = {
        name: thickness.where(side).mean(("azimuth", "polar")).values
        for name, side in (("medial", half), ("lateral", ~half))
    }
    base = pd.DataFrame(sides, index=label.index)
    found: dict[str, list[float]] = {"mean": [], "pixel": []}
    without = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        # Exams too, so that each run learns from others.
        drawn = pd.Series(rng.permutation(label), rng.permutation(label.index))
        classifier, test = train_on(lake, drawn, tmp_path / f"{seed}", seed=seed, epochs=4)
        sphere = lake.load("sphere", lake.cohort().of_exams(test.exams, "test"))
        for gradient, p in found.items():
            cams = ql.diagnosis.cams(sphere, classifier, gradient=gradient)
            guided = guided_thickness(sphere, cams)["guided_thickness"].values
            values = pd.Series(guided, list(test.exams), name=GUIDED_TERM)
            if values.notna().sum() < 30:
                without += 1
                continue
            p.append(nested_logistic(test.label, base.loc[list(test.exams)], values).p)
    uniform = {gradient: stats.kstest(p, "uniform").pvalue for gradient, p in found.items()}
    judge(
        f"DL-guided thickness / labels permuted before the training, {runs} trainings",
        required="p uniform, by the mean gradient and by each pixel's: Kolmogorov-Smirnov p > 0.01",
        measured="; ".join(
            f"{gradient}: p {uniform[gradient]:.2f}, {sum(v < 0.05 for v in p)} of {len(p)} below "
            "0.05"
            for gradient, p in found.items()
        )
        + f"; {without} of {2 * runs} without CAMs",
        passed=bool(min(uniform.values()) > 0.01 and without <= runs // 2),
    )
