"""The figure of mean CAMs: images, outlines, axes and titles."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError
from qmri_lake.surface.spherical_grid import POLAR_MAX, azimuths, polar_angles


def mean_of(bone: str, exams: tuple[int, int] = (20, 12)) -> xr.Dataset:
    """Mean CAMs: absence anterior and lateral, presence medial."""
    around, down = azimuths()[:, None], polar_angles(bone)[None, :]
    spots = [np.exp(-(((around - at) / 40) ** 2) - ((down - 35) / 20) ** 2) for at in (-45, 90)]
    mean = xr.DataArray(
        [spot if n else np.full_like(spot, np.nan) for spot, n in zip(spots, exams, strict=True)],
        dims=("finding", "azimuth", "polar"),
        attrs={"units": "share of the maximum"},
        coords={
            "finding": ["absence", "presence"],
            "azimuth": azimuths(),
            "bone": bone,
            "polar_angle": ("polar", polar_angles(bone)),
            "strategy": "bone_shape+thickness",
        },
    )
    return xr.Dataset(
        {
            "mean": mean,
            "exams": ("finding", list(exams)),
            "left_out": ("finding", [0, 3]),
            "medial_share": ql.diagnosis.medial_share(mean),
            "articular": (
                ("azimuth", "polar"),
                np.broadcast_to((down < 60).astype(float), (224, 224)),
            ),
        }
    )


def test_cam_figure__draws_presence_left_and_absence_right() -> None:
    means = [mean_of(bone) for bone in ("femur", "tibia")]
    figure = ql.report.cam_figure(means, title="Where models look")
    panels = [ax for ax in figure.axes if ax.images and ax.get_title()]
    assert [ax.get_title() for ax in panels[:2]] == [
        "femur, bone shape + thickness: presence\n"
        "12 true positives (3 more without a CAM); 100 % medial",
        "femur, bone shape + thickness: absence\n20 true negatives; 6 % medial",
    ]
    assert len(panels) == 4
    for ax, finding in zip(panels[2:], ("presence", "absence"), strict=True):
        (image,) = ax.images
        expected = means[1]["mean"].sel(finding=finding).values
        np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), expected)
        assert image.get_extent() == [0, POLAR_MAX["tibia"], 180, -180]
        outline = ax.collections[0].get_paths()[0].vertices
        np.testing.assert_allclose(outline[:, 0], 60, atol=0.5)
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels[1] == "lateral  -90°"
    assert labels[3] == "medial  90°"
    assert [text.get_text() for text in panels[1].get_yticklabels()] == list("PLAMP")
    figure.savefig(io.BytesIO(), format="svg")


def test_cam_figure__marks_a_panel_without_correctly_classified_exams() -> None:
    figure = ql.report.cam_figure(mean_of("patella", exams=(20, 0)))
    presence = figure.axes[0]
    assert [text.get_text() for text in presence.texts] == ["no CAM"]
    assert presence.get_title().endswith("0 true positives (3 more without a CAM)")
    figure.savefig(io.BytesIO(), format="png")


def test_cam_figure__requires_means_of_both_findings() -> None:
    with pytest.raises(InputError, match="no mean CAMs"):
        ql.report.cam_figure([])
    with pytest.raises(NotFoundError, match="no mean of presence for the femur"):
        ql.report.cam_figure(mean_of("femur").sel(finding=["absence"]))
