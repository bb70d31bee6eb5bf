"""Figures of maps: values, states and orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.phantom import exams, knee
from qmri_lake.report import bone_pictures as painted
from qmri_lake.report import map_atlases as maps
from qmri_lake.report.colours import MAP_STYLES, STATE_COLOURS
from qmri_lake.surface import SURFACE_STATUS
from tests.fixtures import knee_lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    knees = [knee(exam, shape=(40, 96, 96)) for exam in exams(3)]
    made = knee_lake(tmp_path_factory.mktemp("maps") / "knees.lake", knees)
    made.run("sphere")
    return made.refresh()


@pytest.fixture(scope="module")
def sphere(lake: ql.Lake) -> xr.Dataset:
    return lake.load("sphere").compute()


def test_map_atlas__draws_each_map_and_each_state(sphere: xr.Dataset) -> None:
    exam = sphere.isel(exam=0).copy(deep=True)
    exam["surface_status"][2, 100:110, 100:110] = SURFACE_STATUS["denuded"]
    figure = ql.report.map_atlas(exam)
    panels = [ax for ax in figure.axes if len(ax.images) == 2]
    assert [ax.get_title() for ax in panels[:3]] == [
        "femur: bone shape",
        "femur: cartilage thickness",
        "femur: T2",
    ]
    assert len(panels) == 9
    for ax, biomarker in zip(panels[:3], MAP_STYLES, strict=True):
        shown = np.ma.filled(ax.images[1].get_array().astype(float), np.nan)
        covered = exam["surface_status"].sel(bone="femur") == SURFACE_STATUS["covered"]
        stored = exam["map"].sel(bone="femur", biomarker=biomarker)
        stored = stored if biomarker == "bone_shape" else stored.where(covered)
        np.testing.assert_array_equal(shown, stored.values)
    under = panels[1].images[0].get_array()
    assert tuple(under[105, 105]) == pytest.approx(to_rgb(STATE_COLOURS["denuded"]))
    assert str(exam.exam.item()) in figure.get_suptitle()


def test_map_atlas__labels_a_missing_bone_as_not_mapped(sphere: xr.Dataset) -> None:
    exam = sphere.isel(exam=0).copy(deep=True)
    exam["map"][0], exam["surface_status"][0] = np.nan, 255  # the patella, as step sphere has it
    panels = [ax for ax in ql.report.map_atlas(exam).axes if len(ax.images) == 2]
    texts = {ax.get_title(): [text.get_text() for text in ax.texts] for ax in panels}
    assert {title for title, words in texts.items() if words == ["not mapped"]} == {
        "patella: bone shape",
        "patella: cartilage thickness",
        "patella: T2",
    }
    assert (panels[-1].images[0].get_array() == 1).all()  # not the colour of bone


def test_map_atlas__requires_one_exam(sphere: xr.Dataset) -> None:
    with pytest.raises(InputError, match=r"3 exams \(expected one"):
        ql.report.map_atlas(sphere)
    with pytest.raises(NotFoundError, match="no surface_status"):
        ql.report.map_atlas(sphere.drop_vars("surface_status"))


def test_cohort_mean__is_lazy_and_averages_covered_pixels(
    lake: ql.Lake, sphere: xr.Dataset
) -> None:
    mean = ql.report.cohort_mean(lake.load("sphere"))
    assert all(mean[name].chunks for name in mean.data_vars)
    made = mean.compute()
    covered = (sphere.surface_status == SURFACE_STATUS["covered"]).values
    for k, biomarker in enumerate(MAP_STYLES):
        values = sphere["map"].sel(biomarker=biomarker).values.astype(float)
        known = np.isfinite(values) & (covered | (k == 0))
        count = known.sum(axis=0)
        total = np.where(known, values, 0).sum(axis=0)
        expected = np.where(count >= 1.5, total / np.maximum(count, 1), np.nan)
        np.testing.assert_allclose(made["mean"].sel(biomarker=biomarker), expected, rtol=1e-6)
        np.testing.assert_array_equal(made["count"].sel(biomarker=biomarker), count)
    assert made["exams"].values.tolist() == [3, 3, 3]
    assert np.isnan(made["mean"].values).any()
    with pytest.raises(InputError, match="a fraction"):
        ql.report.cohort_mean(sphere, least=2)


def test_cohort_atlas__draws_means_and_counts(sphere: xr.Dataset) -> None:
    figure = ql.report.cohort_atlas(ql.report.cohort_mean(sphere))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles.count("tibia: exams with cartilage") == 1
    assert "femur 3, tibia 3, patella 3" in figure.get_suptitle()


@pytest.mark.parametrize("side", ["right", "left"])
def test_painted_bones__labels_the_medial_side(sphere: xr.Dataset, side: str) -> None:
    exam = sphere.sel(exam=[str(e) for e in sphere.exam.values if str(e).endswith(side)][:1])
    figure = ql.report.painted_bones(exam, "thickness")
    for ax, bone in zip(figure.axes, maps.BONE_ORDER, strict=False):
        words = {text.get_text(): text.get_position()[0] for text in ax.texts}
        mesh = maps.one_bone(exam.isel(exam=0), bone)
        assert mesh.attrs["knee"] == side
        # Seen from below or above with the front on top, the patient's left is right or left.
        sign = 1 if side == "right" else -1
        view, up = painted.CAMERA[bone]
        right = np.cross(up, view)[0] * sign
        assert (words["medial"] - words["lateral"]) * right > 0
        assert len(ax.collections[0].get_paths()) > 1000
    with pytest.raises(NotFoundError, match="Did you mean 'thickness'"):
        ql.report.painted_bones(exam, "thicknes")


def test_painted_bones__labels_a_missing_bone_as_not_mapped(
    sphere: xr.Dataset, tmp_path: Path
) -> None:
    exam = sphere.isel(exam=0).copy(deep=True)
    exam["map"][0] = np.nan
    exam["centre"][0] = np.nan
    figure = ql.report.painted_bones(exam, "t2")
    figure.savefig(tmp_path / "t2.png", dpi=30)
    assert [t.get_text() for t in figure.axes[2].texts] == ["not mapped"]
