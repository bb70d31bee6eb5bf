"""Registration, projection and averages of maps of other series, like those of T2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.diagnosis.data.map_reader import with_maps
from qmri_lake.diagnosis.data.sphere_images import SphereImages
from qmri_lake.errors import NotFoundError, RunError, VariableError
from qmri_lake.execution.step import temporary_steps
from qmri_lake.fusion import Biomarker
from qmri_lake.phantom import exams, knee
from qmri_lake.phantom.exam_truth import Truth
from qmri_lake.schema.builtin import declare_series
from qmri_lake.schema.groups import VOLUME_DIMS, Group
from qmri_lake.schema.variable import Variable
from qmri_lake.steps.quantitative_maps import QuantitativeMap, declare_quantitative_map
from qmri_lake.steps.register_series import registration_step
from tests.fixtures import knee_lake
from tests.series_lakes import add_series

SHAPE = (24, 64, 64)
BIOMARKERS = ("t1rho", "t2star", "qdess_t2")
GROUP = {"t1rho": "t1rho", "t2star": "t2star", "qdess_t2": "qdess"}
VARIABLE = {"t1rho": "t1rho", "t2star": "t2star", "qdess_t2": "t2"}


def map_of(truth: Truth) -> np.ndarray:
    values = np.where(np.isin(truth.msme_cartilage, (1, 2, 3)), truth.t2, np.nan)
    return values.astype(np.float32)


def add_maps_of(lake: ql.Lake, name: str, truth: Truth) -> None:
    """Store the T2 of the truth as the map of another series on the grid of the MSME."""
    group, variable = GROUP[name], VARIABLE[name]
    axis = "spin_lock" if group == "t1rho" else "echo"
    times = np.array([5.0, 34.0])
    exam = {
        "image": np.zeros((2, *truth.t2.shape), np.float32),
        f"{axis}_time": times,
        "affine": truth.msme_affine,
        "cartilage": truth.msme_cartilage,
        f"dess_to_{group}": truth.dess_to_msme,
        variable: map_of(truth),
    }
    add_series(lake, group, [exam])


@pytest.fixture(scope="module")
def truth() -> Truth:
    return knee(exams(1)[0], shape=SHAPE)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, truth: Truth) -> ql.Lake:
    """A knee whose other series have the T2 of its multi-echo series."""
    made = knee_lake(tmp_path_factory.mktemp("maps") / "knee.lake", [truth])
    for name in BIOMARKERS:
        add_maps_of(made, name, truth)
    for step in ("sphere", "region", *(f"{to}_{n}" for n in BIOMARKERS for to in TARGETS)):
        assert made.run(step).failed == 0
    return made.refresh()


TARGETS = ("sphere", "region")


@pytest.mark.parametrize("name", BIOMARKERS)
def test_run__projects_and_averages_like_t2(lake: ql.Lake, name: str) -> None:
    sphere, region = lake.load("sphere").compute(), lake.load("region").compute()
    assert sphere[name].dims == ("exam", "bone", "azimuth", "polar")
    t2 = sphere["map"].sel(biomarker="t2", drop=True)
    assert np.isfinite(t2).any()
    np.testing.assert_array_equal(sphere[name], t2)
    for end in ("", "_se", "_n"):
        np.testing.assert_array_equal(region[f"{name}{end}"], region[f"t2{end}"])
    assert sphere[name].attrs["units"] == region[name].attrs["units"] == "ms"


def test_session__is_the_run(lake: ql.Lake) -> None:
    dess, series = lake.load("dess"), lake.load("qdess")
    projected = ql.project_map(dess, series, "qdess_t2")
    assert projected["qdess_t2"].chunks is not None
    np.testing.assert_array_equal(projected["qdess_t2"], lake.load("sphere")["qdess_t2"])
    means = ql.map_means(dess, series, "qdess_t2").compute()
    for name in ("qdess_t2", "qdess_t2_se", "qdess_t2_n"):
        np.testing.assert_array_equal(means[name], lake.load("region")[name])
    with pytest.raises(NotFoundError, match="no quantitative map 't3'"):
        ql.project_map(dess, series, "t3")
    with pytest.raises(NotFoundError, match="dess_to_qdess"):
        ql.project_map(dess, series.drop_vars("dess_to_qdess"), "qdess_t2")


def test_region_table__has_a_column_for_each_map(lake: ql.Lake) -> None:
    table = ql.region_table(lake.cohort())
    for name in BIOMARKERS:
        np.testing.assert_array_equal(table[f"{name} [ms]"], table["t2 [ms]"])
        np.testing.assert_array_equal(table[f"{name}_n"], table["t2_n"])


def test_steps__wait_for_their_inputs_and_check_parameters(lake: ql.Lake) -> None:
    assert lake.plan("sphere_t1rho").up_to_date == 1
    with pytest.raises(RunError, match="method 'widest'"):
        lake.plan("sphere_t1rho", method="widest")


def test_merge__strategies_of_other_biomarkers(lake: ql.Lake) -> None:
    sphere = lake.load("sphere").compute()
    image = ql.fusion.merge(sphere, "thickness+t1rho")
    thickness = sphere["map"].sel(biomarker="thickness", drop=True).fillna(0) / 4
    np.testing.assert_allclose(image.sel(channel="red"), thickness, rtol=1e-6)
    np.testing.assert_allclose(
        image.sel(channel="green"), sphere["t1rho"].fillna(0) / 80, rtol=1e-6
    )
    assert not image.sel(channel="blue").any()
    alone = ql.fusion.merge(sphere[["qdess_t2"]], "qdess_t2", scale={"qdess_t2": 40.0})
    np.testing.assert_allclose(alone[:, :, 0], sphere["qdess_t2"].fillna(0) / 40, rtol=1e-6)
    assert ql.fusion.strategy_title("thickness+t1rho") == "Thickness + T1rho"
    for strategy in ("thickness+bone_shape", "t1rho+t1rho", "t9", "all+t1rho", "t2+"):
        with pytest.raises(NotFoundError, match="no strategy"):
            ql.fusion.merge(sphere, strategy)
    with pytest.raises(NotFoundError, match="no map of t2star"):
        ql.fusion.merge(sphere.drop_vars("t2star"), "thickness+t2star")


@pytest.mark.parametrize("strategy", ["thickness+t1rho", "qdess_t2"])
def test_loader__names_any_biomarker(lake: ql.Lake, strategy: str) -> None:
    cohort = with_maps(lake.cohort(), strategy, "femur")
    assert len(cohort) == 1
    (batch,) = (SphereImages(cohort, strategy=strategy, bone="femur").__getitems__([0]),)
    expected = ql.fusion.merge(lake.load("sphere").sel(bone="femur"), strategy)
    np.testing.assert_allclose(batch.image.numpy(), expected, rtol=1e-6)


def test_loader__names_the_step_of_a_missing_map(tmp_path: Path, truth: Truth) -> None:
    lake = knee_lake(tmp_path / "a.lake", [truth])
    add_maps_of(lake, "t1rho", truth)
    lake.run("sphere_t1rho")
    lake = lake.refresh()
    assert len(with_maps(lake.cohort(), "t1rho", "tibia")) == 1  # without step sphere
    with pytest.raises(NotFoundError, match=r"lake\.run\('sphere_t2star'\)"):
        with_maps(lake.cohort(), "t2star", "tibia")
    with pytest.raises(NotFoundError, match=r"lake\.run\('sphere'\)"):
        with_maps(lake.cohort(), "thickness+t1rho", "tibia")


@pytest.mark.parametrize("statement", ["ql.fit_t1rho", "import qmri_lake.steps.series_maps"])
def test_steps__any_module_can_be_imported_first(statement: str) -> None:
    # The module of a step imports all installed steps.
    code = f"import qmri_lake as ql; {statement}; ql.fit_t2"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- registration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["scanner", "mutual_information"])
def test_register__transfers_labels_like_those_of_the_multi_echo_series(
    tmp_path: Path, truth: Truth, method: str
) -> None:
    rng = np.random.default_rng(0)
    images = {
        name: (100 * labels + rng.uniform(0, 5, labels.shape)).astype(np.float32)
        for name, labels in (("dess", truth.dess_cartilage), ("other", truth.msme_cartilage))
    }
    lake = knee_lake(tmp_path / "a.lake", [truth])
    dess = {
        "image": images["dess"],
        "affine": truth.dess_affine,
        "cartilage": truth.dess_cartilage,
    }
    add_series(lake, "dess", [dess])
    both = np.stack([images["other"], images["other"] / 2])
    for group, times in (("t1rho", "spin_lock_time"), ("msme", "echo_time")):
        exam = {"image": both, times: np.array([10.0, 40.0]), "affine": truth.msme_affine}
        add_series(lake, group, [exam])
    lake.run("register_t1rho", method=method)
    found = lake.load("t1rho").isel(exam=0).compute()
    # The masks of the multi-echo series in this lake are true ones, not registered.
    known = ql.register(lake.load("dess"), lake.load("msme"), method=method).isel(exam=0).compute()
    assert (found["cartilage"] > 0).any()
    np.testing.assert_array_equal(found["cartilage"], known["cartilage"])
    np.testing.assert_array_equal(found["dess_to_t1rho"], known["dess_to_msme"])
    assert found["registration_status"] == known["registration_status"]
    series = lake.load("t1rho").drop_vars(["cartilage", "dess_to_t1rho"])
    lazy = ql.register(lake.load("dess"), series, method=method, group="t1rho")
    np.testing.assert_array_equal(lazy["cartilage"][0], found["cartilage"])
    np.testing.assert_array_equal(lazy["dess_to_t1rho"][0], found["dess_to_t1rho"])
    with pytest.raises(NotFoundError, match="no registration of the DESS to group 'sphere'"):
        ql.register(lake.load("dess"), series, group="sphere")


# -- a map of one's own ----------------------------------------------------------------------------


def test_declare_quantitative_map__a_map_of_ones_own(tmp_path: Path, truth: Truth) -> None:
    with temporary_steps():
        group = declare_series(
            Group("ute", 48, "Ultrashort echoes", dims=("echo", *VOLUME_DIMS), title="UTE")
        )
        registration_step("ute")

        @ql.step(
            reads={"ute": ["image"]},
            writes=[Variable("ute", "water", VOLUME_DIMS, "float32", "Bound water", "ms")],
        )
        def water(ute: xr.Dataset) -> dict[str, xr.DataArray]:
            return {"water": ute["image"].isel(echo=0)}

        own = QuantitativeMap(
            "water", "ute", "water", Biomarker("water", "water", "ms", 80.0, "viridis", (0.0, 80.0))
        )
        steps = declare_quantitative_map(own)
        lake = knee_lake(tmp_path / "a.lake", [truth])
        exam = {
            "image": np.stack([map_of(truth)] * 2),
            "echo_time": np.array([1.0, 5.0]),
            "affine": truth.msme_affine,
            "cartilage": truth.msme_cartilage,
            "dess_to_ute": truth.dess_to_msme,
        }
        add_series(lake, group.name, [exam])
        for step in (water, *steps, "region"):
            assert lake.run(step).failed == 0
        region = lake.load("region").compute()
        np.testing.assert_array_equal(region["water"], region["t2"])
        assert np.isfinite(lake.load("sphere")["water"]).any()
        with pytest.raises(VariableError, match="a second declaration of biomarker water"):
            declare_quantitative_map(
                QuantitativeMap("water", "ute", "water", own.biomarker._replace(scale=1.0))
            )
