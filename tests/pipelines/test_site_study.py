"""A study of one site, from NIfTI images with its own identifiers to maps, and out again as BIDS.

Six patients have two visits. Their images have no DICOM headers: names and JSON sidecars state
patient, visit, side and times. The knees are synthetic, so that every map has a known truth.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.phantom import exams, knee
from qmri_lake.phantom.exam_truth import Truth
from tests.image_files.writers import write_image
from tests.series_lakes import simulate_dess

pytestmark = pytest.mark.accept

SHAPE = (16, 48, 48)
PATIENTS = [f"K{number:02d}-S" for number in range(1, 7)]
VISITS = {"baseline": 0, "followup": 12}
SPIN_LOCKS = np.array([0.0, 10.0, 40.0, 80.0])
TR, TE, FLIP = 20.0, 6.0, 30.0


def right_knee() -> Truth:
    return knee(next(exam for exam in exams(6) if exam.side == "right"), shape=SHAPE)


def in_tissue(cartilage: np.ndarray) -> np.ndarray:
    """T2 [ms] of each voxel: another one for each tissue of cartilage, and 80 around it."""
    return np.array([80.0, 32.0, 36.0, 40.0, 20.0])[cartilage]


def t1rho_of(t2: np.ndarray) -> np.ndarray:
    return 1.25 * t2


@cache
def dess_of(t2: float) -> tuple[float, float]:
    return simulate_dess(t2, tr=TR, te=TE, flip=FLIP)


def dess_echoes(t2: np.ndarray) -> np.ndarray:
    """Both echoes of a DESS, (echo, slice, row, column)."""
    values, index = np.unique(t2, return_inverse=True)
    return np.array([dess_of(value) for value in values]).T[:, index.reshape(t2.shape)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the site: images, masks and covariates."""
    folder = tmp_path_factory.mktemp("site")
    truth = right_knee()  # exams differ in their signal only
    rows = []
    for number, patient in enumerate(PATIENTS):
        for visit, month in VISITS.items():
            density = 1 + number / 10 + month / 100 + 0.2 * (truth.dess_bone > 0)
            t2 = in_tissue(truth.dess_cartilage)
            at = folder / "images" / patient / visit
            image = (300 * density + 2 * t2).round()[np.newaxis]
            write_image(at / "dess.nii.gz", image.astype(np.int16), truth.dess_affine)
            write_image(
                at / "qdess.nii.gz",
                (1e4 * density * dess_echoes(t2)).astype(np.float32),
                truth.dess_affine,
                EchoTime=[TE / 1e3, (2 * TR - TE) / 1e3],
                RepetitionTime=TR / 1e3,
                FlipAngle=FLIP,
            )
            signal = np.exp(-SPIN_LOCKS[:, None, None, None] / t1rho_of(t2))
            write_image(
                at / "t1rho.nii.gz",
                (1e3 * density * signal).astype(np.float32),
                truth.dess_affine,
                SpinLockTime=(SPIN_LOCKS / 1e3).tolist(),
            )
            tissues = (
                truth.dess_cartilage == 1,
                truth.dess_cartilage == 2,
                truth.dess_bone == 1,
                truth.dess_bone == 2,
            )
            labels = np.select(tissues, (2, 4, 1, 3), 0)  # numbers of OAI-ZIB
            name = f"{patient}_{month:02d}m_right_labels.mha"
            write_image(
                folder / "masks" / name, labels[np.newaxis].astype(np.uint8), truth.dess_affine
            )
        rows.append({"id": patient, "injury": int(patient in PATIENTS[:3]), "height_cm": 170.5})
    pd.DataFrame(rows).to_csv(folder / "covariates.csv", index=False)
    return folder


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture(scope="module")
def lake(site: Path) -> ql.Lake:
    """The lake of the study, made by commands."""
    at = site / "site.lake"
    visits = [w for name, month in VISITS.items() for w in ("--visit", f"{name}={month}")]
    pattern = "{patient}/{visit}/{group}.nii.gz"
    right = ("--knee", "right", "--any-position")
    run("ingest", site / "images", "--lake", at, "--pattern", pattern, *right, *visits)
    masks = ("--pattern", "{patient}_{timepoint}m_{knee}_labels.mha", "--as", "mask")
    run("ingest-masks", site / "masks", "--lake", at, "--labels", "oai-zib", *masks)
    columns = ("--patient", "id", "--columns", "injury,height_cm")
    run("ingest-table", site / "covariates.csv", "--lake", at, *columns)
    for group in ("t1rho", "qdess"):
        run("run", f"register_{group}", "--lake", at, "--set", "method=scanner")
    run("run", "t1rho", "--lake", at)
    run("run", "qdess_t2", "--lake", at)
    for step in ("region_t1rho", "region_qdess_t2", "sphere_t1rho"):
        main(["run", step, "--lake", str(at)])  # 1: masks of this table have no patella
    return ql.open_lake(str(at))


def test_site__maps_equal_the_truth(lake: ql.Lake) -> None:
    assert len(lake) == 12
    for row in range(len(lake)):
        cartilage = lake.root["dess/cartilage"][row]
        tissue = np.isin(cartilage, (1, 2))
        assert tissue.sum() > 100
        t2 = in_tissue(cartilage)
        found = lake.root["t1rho/t1rho"][row]
        np.testing.assert_allclose(found[tissue], t1rho_of(t2)[tissue], rtol=1e-3)
        found = lake.root["qdess/t2"][row]
        np.testing.assert_allclose(found[tissue], t2[tissue], rtol=0.03)


def test_site__regions_and_spheres_have_the_values_of_the_maps(lake: ql.Lake) -> None:
    region = lake.load("region").compute()
    for name, factor in (("qdess_t2", 1.0), ("t1rho", 1.25)):
        for place, t2 in (("F", 32.0), ("T", 36.0)):
            means = region[name].sel(region=place).values
            np.testing.assert_allclose(means, factor * t2, rtol=0.03)
        assert np.isnan(region[name].sel(region="P")).all()  # no patella in these masks
    sphere = lake.load("sphere").t1rho.sel(bone="femur").values
    assert np.nanmedian(sphere) == pytest.approx(40.0, rel=0.15)  # rays also meet fluid


def test_site__cohorts_by_identifier_and_covariate(lake: ql.Lake) -> None:
    assert lake.cohort("study_id == 'K02-S'").exams["timepoint"].tolist() == [0, 12]
    injured = lake.cohort("injury == 1 and timepoint == 12")
    assert len(injured) == 3
    ids = lake.load("clinical", injured).study_id.values
    assert sorted(ids) == PATIENTS[:3]


def test_site__exported_to_bids_and_back_is_equal(lake: ql.Lake, tmp_path: Path) -> None:
    groups = ("dess", "qdess", "t1rho")
    variables = ",".join(f"{group}/image" for group in groups)
    run("export", tmp_path / "b", "--lake", lake.url, "--format", "bids", "--variables", variables)
    assert not list((tmp_path / "b").rglob(f"*{PATIENTS[0]}*"))
    run("ingest", tmp_path / "b", "--lake", tmp_path / "back.lake", "--any-position")
    back = ql.open_lake(str(tmp_path / "back.lake"))
    assert sorted(back.exams["exam"]) == sorted(lake.exams["exam"])
    row_of = {exam: row for row, exam in enumerate(back.exams["exam"])}
    for row, exam in enumerate(lake.exams["exam"]):
        for group in groups:
            for name in ("image", "extent"):
                np.testing.assert_array_equal(
                    back.root[f"{group}/{name}"][row_of[exam]], lake.root[f"{group}/{name}"][row]
                )
            mine = back.root[f"{group}/affine"][row_of[exam]]
            np.testing.assert_allclose(mine, lake.root[f"{group}/affine"][row], atol=1e-4)
        for name in ("t1rho/spin_lock_time", "qdess/echo_time"):
            np.testing.assert_allclose(
                back.root[name][row_of[exam]], lake.root[name][row], rtol=1e-12
            )
        for name in ("qdess/repetition_time", "qdess/flip_angle"):
            assert back.root[name][row_of[exam]] == pytest.approx(lake.root[name][row], rel=1e-6)
