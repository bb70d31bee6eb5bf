"""Regions of cartilage: where they lie, what is measured in them, and as a step of a lake."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import linregress

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.phantom import exams, knee
from qmri_lake.phantom.exam_truth import Truth
from qmri_lake.steps._surface import means_of_exam
from qmri_lake.surface import REGIONS, SURFACE_STATUS
from qmri_lake.surface.occupancy import occupancy_of
from qmri_lake.surface.regions import LEAVES, REGIONS_OF, find_compartments
from qmri_lake.surface.spherical_grid import directions, frame, places
from qmri_lake.surface.spherical_maps import cast_rays
from qmri_lake.surface.surface_points import surface_points
from qmri_lake.tissues import BONE, CARTILAGE
from tests.conftest import Judge
from tests.fixtures import knee_lake
from tests.surface.truth import true_means

COMPARTMENTS = ["P", "TrF", "MF", "LF", "MT", "LT"]


def measured(truth: Truth, **changed: object) -> pd.DataFrame:
    """Averages of a synthetic knee, from its true masks and T2."""
    t2 = np.where(truth.msme_cartilage > 0, truth.t2, np.nan).astype(np.float32)
    given = {
        "bone": truth.dess_bone,
        "cartilage": truth.dess_cartilage,
        "affine": truth.dess_affine,
        "knee": truth.exam.side,
        "t2": t2,
        "t2_labels": truth.msme_cartilage,
        "t2_affine": truth.msme_affine,
        "dess_to_msme": truth.dess_to_msme,
    }
    means, notes, _ = means_of_exam(**{**given, **changed})
    table = pd.DataFrame(means._asdict(), index=pd.Index(REGIONS, name="region"))
    table.attrs["notes"] = notes
    return table


@pytest.fixture(scope="module")
def truths() -> list[Truth]:
    return [knee(exam, shape=(80, 192, 192)) for exam in exams(2)]


@pytest.mark.slow
def test_surface_points__add_up_to_the_area_of_a_sphere() -> None:
    spacing, radius = np.array([1.1, 0.6, 0.5]), 18.0
    n = (2 * (radius + 4) / spacing).astype(int)
    grid = np.stack(np.meshgrid(*map(np.arange, n), indexing="ij"), axis=-1)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * np.sign(np.linalg.det(turn)) @ np.diag(spacing)
    far = np.linalg.norm((grid - (n - 1) / 2) @ affine[:3, :3].T, axis=-1)
    bone, cartilage = far < radius, (far >= radius) & (far < radius + 2)
    occupancy = occupancy_of(bone, cartilage, affine, "patella", np.eye(4))
    points = surface_points(occupancy, cast_rays(occupancy, "patella"), "patella")
    assert points.area.sum() == pytest.approx(4 * np.pi * radius**2, rel=0.01)
    assert (points.status == SURFACE_STATUS["covered"]).all()
    mean = np.average(points.thickness, weights=points.area)
    assert mean == pytest.approx(2, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("bone", ["femur", "tibia", "patella"])
def test_places__lead_back_to_their_pixels(bone: str) -> None:
    rays = directions(bone, 240)
    row, column = places(bone, 7.5 * rays.reshape(-1, 3))
    expected = np.indices(rays.shape[:2]).reshape(2, -1)
    np.testing.assert_array_equal([row, column], expected)


@pytest.mark.slow
def test_regions__parts_are_the_whole_and_have_names() -> None:
    assert set(REGIONS) == {name for of_bone in REGIONS_OF.values() for name in of_bone}
    for bone, whole in (("patella", "P"), ("femur", "F"), ("tibia", "T")):
        assert REGIONS_OF[bone][whole] == LEAVES[bone]
    assert set(REGIONS_OF["tibia"]["MT"]) == {"cMT", "eMT", "iMT", "aMT", "pMT"}


@pytest.mark.slow
def test_compartments__lie_where_their_names_say(truths: list[Truth]) -> None:
    for truth in truths:
        to_map = frame(truth.exam.side)
        for bone in ("femur", "tibia"):
            occupancy = occupancy_of(
                truth.dess_bone, truth.dess_cartilage, truth.dess_affine, bone, to_map
            )
            view = cast_rays(occupancy, bone)
            points = surface_points(occupancy, view, bone)
            leaf = find_compartments(bone, view.centre, points).of(points.place)
            articular = points.status != SURFACE_STATUS["not_articular"]
            middle = {
                name: points.place[articular & (leaf == k)].mean(axis=0)
                for k, name in enumerate(LEAVES[bone])
            }
            if bone == "femur":
                assert middle["cMF"][0] > middle["TrF"][0] > middle["cLF"][0]
                assert middle["TrF"][1] < middle["cMF"][1] < middle["pMF"][1]
                assert middle["cLF"][2] < middle["pLF"][2]
                continue
            for side, out in (("MT", 1), ("LT", -1)):
                e, i, a, p, c = (middle[f"{part}{side}"] for part in "eiapc")
                assert out * e[0] > out * c[0] > out * i[0]
                assert a[1] < c[1] < p[1]
                area = {
                    part: points.area[articular & (leaf == LEAVES[bone].index(f"{part}{side}"))]
                    for part in "ceiap"
                }
                total = sum(values.sum() for values in area.values())
                assert area["c"].sum() / total == pytest.approx(0.2, abs=0.005)


@pytest.mark.slow
def test_femur__of_a_real_knee_parts_at_its_notch(real_data: Path) -> None:
    mask = ql.read_mask(real_data / "knee_segmentation/right_knee_labels.nrrd")
    labels = np.asarray(mask.labels)
    occupancy = occupancy_of(labels == 5, labels == 1, mask.affine, "femur", np.eye(4))
    view = cast_rays(occupancy, "femur")
    points = surface_points(occupancy, view, "femur")
    borders = find_compartments("femur", view.centre, points)
    # The cartilage itself ends at the notch: between the condyles none is behind its front edge.
    place = points.place[points.status == SURFACE_STATUS["covered"]]
    between = np.abs(place[:, 0] - borders.middle) < 3
    assert np.percentile(place[between, 1], 99) == pytest.approx(borders.notch, abs=3)


@pytest.mark.slow
def test_notch__of_synthetic_knees_is_bare(truths: list[Truth]) -> None:
    for truth in truths:
        occupancy = occupancy_of(
            truth.dess_bone,
            truth.dess_cartilage,
            truth.dess_affine,
            "femur",
            frame(truth.exam.side),
        )
        view = cast_rays(occupancy, "femur")
        points = surface_points(occupancy, view, "femur")
        borders = find_compartments("femur", view.centre, points)
        covered = points.status == SURFACE_STATUS["covered"]
        between = covered & (np.abs(points.place[:, 0] - borders.middle) < 3)
        assert np.percentile(points.place[between, 1], 99) == pytest.approx(borders.notch, abs=6)
        # Its walls are steep: what covers them no ray from the centre meets.
        row, column = places("femur", points.place - view.centre.place)
        seen = column < 224
        depth = view.rho[row[seen], column[seen]] - np.linalg.norm(
            points.place[seen] - view.centre.place, axis=1
        )
        hidden = points.area[seen][covered[seen] & (depth > 2)].sum()
        assert hidden < 0.02 * points.area[covered].sum()


@pytest.mark.slow
def test_means__of_synthetic_knees(truths: list[Truth], judge: Judge) -> None:
    found = pd.concat([measured(truth).loc[COMPARTMENTS] for truth in truths])
    true = pd.concat([true_means(truth).loc[COMPARTMENTS] for truth in truths])
    words, passed = [], True
    for name, unit in (("thickness_total", "mm"), ("t2", "ms")):
        fit = linregress(true[name], found[name])
        bias = (found[name] - true[name]).mean()
        words.append(f"{name}: slope {fit.slope:.3f}, r {fit.rvalue:.3f}, bias {bias:+.2f} {unit}")
        passed &= 0.95 <= fit.slope <= 1.05 and fit.rvalue > 0.95
    judge(
        "regions / six compartments of two synthetic knees, 80 x 192 x 192, true masks",
        required="slope 0.95 to 1.05, r above 0.95",
        measured="; ".join(words),
        passed=passed,
    )
    for truth in truths:
        table = measured(truth)
        for bone, whole, cartilage in (("femur", "F", "femoral"), ("tibia", "T", "tibial")):
            voxels = np.count_nonzero(truth.dess_cartilage == CARTILAGE[cartilage])
            assert table.loc[whole, "volume_n"] == voxels, bone
            spacing = abs(np.linalg.det(truth.dess_affine[:3, :3]))
            assert table.loc[whole, "volume"] == pytest.approx(voxels * spacing, rel=1e-6)
        parts = table.loc[["TrF", "MF", "LF"]]
        for name in ("volume", "covered_area", "articular_area", "thickness_n", "t2_n"):
            assert parts[name].sum() == pytest.approx(table.loc["F", name], rel=1e-5)


@pytest.mark.slow
def test_means__of_a_mirrored_knee_are_the_same(truths: list[Truth]) -> None:
    truth = truths[0]
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    other = {"right": "left", "left": "right"}[truth.exam.side]
    mirrored = measured(
        truth,
        knee=other,
        affine=mirror @ truth.dess_affine,
        t2_affine=mirror @ truth.msme_affine,
        dess_to_msme=mirror @ truth.dess_to_msme @ mirror,
    )
    pd.testing.assert_frame_equal(mirrored, measured(truth), rtol=1e-5)


@pytest.mark.slow
def test_means__of_a_denuded_plateau(truths: list[Truth]) -> None:
    truth = truths[0]
    hole = truth.dess_cartilage.copy()
    place = np.argwhere(hole == CARTILAGE["tibial"])
    world = place @ truth.dess_affine[:3, :3].T + truth.dess_affine[:3, 3]
    to_map = frame(truth.exam.side)[:3, :3]
    own = world @ to_map.T
    medial = own[:, 0] > np.median(own[:, 0])
    middle = own[medial].mean(axis=0)
    gone = np.linalg.norm((own - middle)[:, :2], axis=1) < 4
    hole[tuple(place[gone].T)] = 0
    before, after = measured(truth), measured(truth, cartilage=hole)
    bared = after.loc["MT", "articular_area"] * (after.loc["MT", "denuded"] / 100)
    assert bared == pytest.approx(np.pi * 16, rel=0.25)
    assert before.loc["MT", "denuded"] < 2
    assert after.loc["MT", "thickness"] > after.loc["MT", "thickness_total"]
    pd.testing.assert_series_equal(after.loc["LT"], before.loc["LT"])


@pytest.mark.slow
def test_means__of_next_to_nothing_are_nan_and_noted(truths: list[Truth]) -> None:
    truth = truths[0]
    spots = np.zeros_like(truth.dess_cartilage)
    for label in (CARTILAGE["femoral"], CARTILAGE["tibial"], CARTILAGE["patellar"]):
        place = np.argwhere(truth.dess_cartilage == label)
        spots[tuple(place[len(place) // 2])] = label
    # One voxel that rays of the map meet, and the normal of no triangle does.
    spots[spots == CARTILAGE["femoral"]] = 0
    spots[35, 91, 65] = truth.dess_cartilage[35, 91, 65]
    assert spots[35, 91, 65] == CARTILAGE["femoral"]
    # Sagittal slices around the middle alone: neither condyle is there.
    slit = np.zeros(truth.dess_bone.shape, bool)
    slit[39:42] = True
    bone = np.where(slit, truth.dess_bone, 0).astype(np.uint8)
    cartilage = np.where(slit, truth.dess_cartilage, 0).astype(np.uint8)
    for changed, why in (
        ({"cartilage": spots}, "no femoral cartilage"),
        ({"bone": bone, "cartilage": cartilage}, "no groove between the condyles of the femur"),
    ):
        table = measured(truth, **changed)
        assert np.isnan(table.loc["F", "thickness"])
        assert table.loc["F", "volume_n"] == -1
        assert any(why in note for note in table.attrs["notes"])


@pytest.mark.slow
def test_plateau__points_on_a_line_span_none(truths: list[Truth]) -> None:
    truth = truths[0]
    occupancy = occupancy_of(
        truth.dess_bone, truth.dess_cartilage, truth.dess_affine, "tibia", frame(truth.exam.side)
    )
    view = cast_rays(occupancy, "tibia")
    points = surface_points(occupancy, view, "tibia")
    middle = view.centre.place[0]
    line = np.argwhere(points.place[:, 0] > middle)[:20, 0]
    points.status[points.place[:, 0] > middle] = SURFACE_STATUS["not_articular"]
    points.status[line] = SURFACE_STATUS["covered"]
    points.place[line, :2] = middle + np.linspace(10, 30, 20)[:, None] * [1, 0.5]
    leaf = find_compartments("tibia", view.centre, points).of(points.place)
    medial = points.place[:, 0] > middle
    assert (leaf[medial] == -1).all()
    assert (leaf[~medial] >= 5).all()


# -- a lake --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> ql.Lake:
    def spoil(row: int, arrays: dict[str, np.ndarray]) -> None:
        if row == 1:
            bone = arrays["dess/bone"]
            arrays["dess/bone"] = np.where(bone == BONE["patella"], 0, bone).astype(np.uint8)
        elif row == 2:
            arrays["msme/t2"] = np.full_like(arrays["msme/t2"], np.nan)

    knees = [knee(exam, shape=(40, 96, 96)) for exam in exams(3)]
    made = knee_lake(tmp_path_factory.mktemp("regions") / "knees.lake", knees, spoil)
    made.run("region")
    return made.refresh()


@pytest.mark.slow
def test_run__says_what_is_absent(lake: ql.Lake) -> None:
    flags = lake.failures("region").set_index("exam")["message"]
    names = list(lake.exams["exam"])
    assert "no patella" in flags[names[1]]
    assert "no T2 in femoral cartilage" in flags[names[2]]
    ds = lake.load("region").compute()
    absent = ds.isel(exam=1).sel(region="P")
    assert np.isnan(absent.thickness)
    assert absent.volume_n == -1
    bare = ds.isel(exam=2).sel(region="F")
    assert bare.thickness > 1
    assert np.isnan(bare.t2)
    assert bare.t2_n == 0
    assert lake.validate() == []


@pytest.mark.slow
def test_session__is_the_run(lake: ql.Lake) -> None:
    def refuse(dsk, keys, **kwargs):
        raise AssertionError("computed")

    dess, msme = lake.load("dess"), lake.load("msme")
    with dask.config.set(scheduler=refuse):
        lazy = ql.region_means(dess, msme)
    made = lazy.compute()
    xr.testing.assert_identical(made, lake.load("region").compute().assign_attrs(made.attrs))
    alone = ql.region_means(dess.isel(exam=0).chunk(slice=7))
    kept = [name for name in alone if not str(name).startswith("t2")]
    xr.testing.assert_equal(alone[kept].compute(), made[kept].isel(exam=0))
    assert np.isnan(alone["t2"]).all()
    assert (alone["t2_n"] == -1).all()


@pytest.mark.slow
def test_table__one_row_an_exam_and_region(lake: ql.Lake, tmp_path: Path) -> None:
    table = ql.region_table(lake.cohort())
    assert len(table) == 3 * len(REGIONS)
    assert list(table.columns[:6]) == [
        "exam",
        "patient",
        "timepoint",
        "knee",
        "region",
        "thickness [mm]",
    ]
    assert table.attrs["left_out"] == 0
    ds = lake.load("region").compute()
    row = table[(table["exam"] == ds["exam"].values[2]) & (table["region"] == "LT")].iloc[0]
    assert row["volume [mm3]"] == ds["volume"].isel(exam=2).sel(region="LT")
    assert row["knee"] == lake.exams["knee"].iloc[2]
    table.to_csv(tmp_path / "regions.csv", index=False)
    table.to_parquet(tmp_path / "regions.parquet")
    kept = pd.read_parquet(tmp_path / "regions.parquet")
    pd.testing.assert_frame_equal(kept, table, check_dtype=False)
    assert pd.read_csv(tmp_path / "regions.csv")["region"].tolist() == table["region"].tolist()


@pytest.mark.slow
def test_table__of_nobody(tmp_path: Path) -> None:
    empty = knee_lake(tmp_path / "one.lake", [knee(exams(1)[0], shape=(40, 96, 96))])
    with pytest.raises(NotFoundError, match="Run step region first"):
        ql.region_table(empty.cohort())


@pytest.mark.slow
def test_plan__refuses_parameters(lake: ql.Lake) -> None:
    with pytest.raises(RunError, match="with_t2=1"):
        lake.plan("region", with_t2=1)
    with pytest.raises(InputError, match="an articular template"):
        lake.plan("region", articular=np.ones((2, 2), bool))
