"""Figure S3: six panels whose lines and numbers are those of the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from qmri_lake.errors import NotFoundError
from qmri_lake.report.figure_s3_agreement import COLUMNS, figure_s3, map_agreement, means_of_maps
from qmri_lake.statistics import bland_altman
from qmri_lake.steps.spherical_maps import BIOMARKERS
from qmri_lake.surface import BONES, SURFACE_STATUS


def made(exams: int = 4) -> tuple[xr.Dataset, xr.Dataset]:
    """Small maps with every state, and sources of the same exams in another order."""
    rng = np.random.default_rng(0)
    shape = (exams, len(BONES), 6, 5)
    keys = [f"900000{k}-000m-right" for k in range(exams)]
    maps = rng.uniform(1, 4, (exams, len(BONES), len(BIOMARKERS), 6, 5)).astype(np.float32)
    maps[0, :, 2] = np.nan
    sphere = xr.Dataset(
        {
            "map": (("exam", "bone", "biomarker", "azimuth", "polar"), maps),
            "surface_status": (
                ("exam", "bone", "azimuth", "polar"),
                rng.integers(1, 4, shape).astype(np.uint8),
            ),
            "area": (
                ("exam", "bone", "azimuth", "polar"),
                rng.uniform(0.1, 2, shape).astype(np.float32),
            ),
        },
        coords={"exam": keys, "bone": list(BONES), "biomarker": list(BIOMARKERS)},
    )
    names = ["cM", "P", "F", "T"]
    region = xr.Dataset(
        {name: (("exam", "region"), rng.uniform(1, 4, (exams, 4))) for name in ("thickness", "t2")},
        coords={"exam": keys[::-1], "region": names},
    )
    return sphere, region


def test_means_of_maps__are_lazy_and_equal_a_loop() -> None:
    sphere, _ = made()
    lazy = means_of_maps(sphere.chunk(exam=1))
    assert lazy["plain"].chunks
    assert lazy["area"].chunks
    means = lazy.compute()
    for e, b in np.ndindex(4, 3):
        for name in ("thickness", "t2"):
            values = sphere["map"].sel(biomarker=name).values[e, b].astype(float)
            inside = sphere["surface_status"].values[e, b] == SURFACE_STATUS["covered"]
            inside &= np.isfinite(values)
            plain = values[inside].mean() if inside.any() else np.nan
            weights = sphere["area"].values[e, b][inside]
            area = np.average(values[inside], weights=weights) if inside.any() else np.nan
            mine = means.isel(exam=e, bone=b).sel(biomarker=name)
            assert float(mine["plain"]) == pytest.approx(plain, nan_ok=True)
            assert float(mine["area"]) == pytest.approx(area, rel=1e-5, nan_ok=True)


def test_map_agreement__joins_exams_by_key() -> None:
    sphere, region = made()
    table = map_agreement(sphere, region)
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 4 * 3 * 2
    row = table[(table.exam == "9000003-000m-right") & (table.bone == "tibia")].iloc[0]
    assert row["source"] == float(region.thickness.sel(exam=row.exam, region="T"))
    gone = map_agreement(sphere, region.isel(exam=slice(0, 3)))
    assert gone[gone.exam == "9000000-000m-right"]["source"].isna().all()
    with pytest.raises(NotFoundError, match="no F, t2"):
        map_agreement(sphere, region.drop_sel(region="F").drop_vars("t2"))


def test_figure_s3__draws_the_published_lines() -> None:
    rng = np.random.default_rng(1)
    sources = np.arange(2, 3, 0.1)
    rows = [
        (f"e{k}", bone, name, x, x + rng.normal(0.1, 0.2), x + rng.normal(0, 0.1))
        for bone in BONES
        for name in ("thickness", "t2")
        for k, x in enumerate(sources)
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.loc[(table.bone == "patella") & (table.exam > "e1"), "source"] = np.nan
    figure = figure_s3(table)
    assert [ax.get_title() for ax in figure.axes] == [
        f"{name}, {bone}" for name in ("Thickness", "T2") for bone in ("femur", "tibia", "patella")
    ]
    for ax, bone in zip(figure.axes[:2], ("femur", "tibia"), strict=True):
        mine = table[(table.bone == bone) & (table.biomarker == "thickness")]
        found = bland_altman(mine.source, mine.plain)
        level = {
            (line.get_color(), line.get_linestyle(), float(line.get_ydata()[0]))
            for line in ax.lines
            if line.get_linestyle() != "None"
        }
        assert level == {
            ("black", "-", 0.0),
            ("#808080", "-", found.bias),
            ("#808080", "--", found.lower),
            ("#808080", "--", found.upper),
        }
        printed = ax.texts[0].get_text().replace("\N{MINUS SIGN}", "-")
        assert f"plain: {found.bias:+.2f} mm, limits {found.lower:+.2f}" in printed
        by_area = bland_altman(mine.source, mine.area)
        assert f"area-weighted: {by_area.bias:+.2f} mm" in printed
    assert "n = 2, too few exams" in figure.axes[2].texts[0].get_text()
    with pytest.raises(NotFoundError, match="no column source"):
        figure_s3(table.drop(columns="source"))


def test_figure_s3__prints_a_bias_that_rounds_to_zero_as_positive() -> None:
    rows = [(f"e{k}", "femur", "t2", 40.0 + k, 39.999 + k, 39.99 + k) for k in range(5)]
    printed = figure_s3(pd.DataFrame(rows, columns=list(COLUMNS))).axes[3].texts[0].get_text()
    assert printed.splitlines()[0].startswith("plain: +0.00 ms, limits +0.00 to +0.00")
    assert "area-weighted: \N{MINUS SIGN}0.01 ms" in printed
