"""A stored series is replaced by a more complete one, or by one that the user chooses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from pydicom.uid import JPEG2000Lossless

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import NotFoundError, Reason
from qmri_lake.execution.step import temporary_steps
from tests.oai.conftest import Written
from tests.oai.conftest import write as write_series

EXAM, OTHER = "9000001-000m-right", "9000002-000m-right"
ECHOES = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)


def write_knee(root: Path, *, patient: int = 9000001, echoes: bool = False, **options) -> Written:
    folder = root / f"00m/0.C.2/{patient}/20040824/{1 + echoes}"
    shutil.rmtree(folder, ignore_errors=True)
    if echoes:
        options = {"series": "t2_map_RIGHT", "study": "x", "echo_times": ECHOES, **options}
    return write_series(folder, patient=str(patient), **options)


@pytest.fixture
def delivery(tmp_path: Path) -> tuple[Path, Written]:
    """Two knees of six slices, of which the first lost its first slice."""
    root = tmp_path / "oai"
    whole = write_knee(root, uid="1.2.3")
    write_knee(root, patient=9000002, seed=2)
    whole.paths[0].rename(tmp_path / "lost")
    return root, whole


def image_of(lake: ql.Lake, exam: str = EXAM, group: str = "dess") -> np.ndarray:
    image: np.ndarray = lake.load(group, exam=exam).image.isel(exam=0).values
    return image


def reasons(result: object) -> list[Reason]:
    return [problem.reason for problem in result.problems]  # type: ignore[attr-defined]


def mean_step() -> object:
    @ql.step(
        reads={"dess": ["image"]},
        writes=[ql.Variable("dess", "mean", (), "float64", "Mean", "1", "not computed")],
    )
    def mean(ds: xr.Dataset) -> dict[str, float]:
        return {"mean": float(ds.image.mean())}

    return mean


@pytest.mark.slow
def test_ingest__short_series_is_replaced_by_the_whole_one(
    delivery: tuple[Path, Written], tmp_path: Path
) -> None:
    root, whole = delivery
    lake = ql.ingest(root, tmp_path / "l.lake").lake
    with temporary_steps():
        step = mean_step()
        lake.run(step)
        before = lake.snapshot
        (tmp_path / "lost").rename(whole.paths[0])

        offered = ql.ingest(root, lake)
        assert reasons(offered) == [Reason.MORE_COMPLETE]
        assert "6 slices in the delivery, 5 slices in the lake" in offered.problems[0].found
        assert f"--replace {EXAM}" in offered.problems[0].todo
        assert any("1 series of this delivery is more complete" in n for n in offered.notes)
        assert offered.lake.snapshot == before

        result = ql.ingest(root, lake, repair=True)
        assert (result.problems, result.replaced, result.present) == ((), 1, 1)
        assert "replaced 1 series" in str(result)
        assert np.array_equal(image_of(result.lake), whole.image[0])
        assert result.lake.plan(step).stale == 1
        result.lake.run(step)
        assert result.lake.load("dess")["mean"].values[0] == pytest.approx(whole.image[0].mean())
    assert image_of(ql.open_lake(lake.url, ref=before)).shape == (5, 8, 6)
    assert result.lake.validate(deep=True) == []
    again = ql.ingest(root, lake, replace=EXAM)
    assert (again.replaced, again.present) == (0, 2)  # the pixels are the same


@pytest.mark.slow
def test_ingest__echoes_that_follow_are_offered(tmp_path: Path) -> None:
    root = tmp_path / "oai"
    write_knee(root, patient=9000002, echoes=True)
    write_knee(root, echoes=True, echo_times=ECHOES[:2], uid="1.2.3")
    lake = ql.ingest(root, tmp_path / "l.lake").lake
    whole = write_knee(root, echoes=True, uid="1.2.3")
    assert reasons(ql.ingest(root, lake)) == [Reason.MORE_COMPLETE]
    result = ql.ingest(root, lake, repair=True)
    assert np.array_equal(image_of(result.lake, group="msme"), whole.image)
    assert result.lake.load("msme", exam=EXAM).echo_time.values.tolist() == [[*ECHOES]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [{"elements": {"PixelSpacing": [0.5, 0.45]}}, {"slices": 4}],
)
def test_ingest__another_series_replaces_only_what_is_named(
    delivery: tuple[Path, Written], tmp_path: Path, changed: dict[str, object]
) -> None:
    root, _ = delivery
    lake = ql.ingest(root, tmp_path / "l.lake").lake
    before = image_of(lake)
    new = write_knee(root, **changed)
    result = ql.ingest(root, lake, repair=True, replace=OTHER)
    assert reasons(result) == [Reason.OTHER_SERIES]
    assert np.array_equal(image_of(result.lake), before)
    result = ql.ingest(root, lake, replace=[EXAM])
    assert (result.problems, result.replaced) == ((), 1)
    assert np.array_equal(image_of(result.lake), new.image[0])


def test_ingest__replacement_that_cannot_be_read_keeps_the_stored_series(tmp_path: Path) -> None:
    root = tmp_path / "oai"
    stored = write_knee(root, shape=(64, 48))
    lake = ql.ingest(root, tmp_path / "l.lake").lake
    new = write_knee(root, seed=4, shape=(64, 48), syntax=JPEG2000Lossless)
    content = bytearray(new.paths[2].read_bytes())
    start = content.index(b"\xff\x4f\xff\x51")
    content[start : start + 60] = bytes(60)
    new.paths[2].write_bytes(content)
    result = ql.ingest(root, lake, replace=EXAM)
    assert (reasons(result), result.replaced) == ([Reason.UNDECODABLE_PIXELS], 0)
    assert np.array_equal(image_of(result.lake), stored.image[0])
    new.paths[2].unlink()
    result = ql.ingest(root, lake, replace=EXAM)
    assert reasons(result) == [Reason.MISSING_SLICE, Reason.ABSENT_EXAM]


def test_ingest__imported_masks_keep_their_grid(
    delivery: tuple[Path, Written], tmp_path: Path
) -> None:
    root, whole = delivery
    masks = tmp_path / "masks"
    masks.mkdir()
    affine = whole.affine.copy()
    affine[:3, 3] += affine[:3, 0]
    bone = np.ones((5, 8, 6), np.uint8)
    np.savez(masks / f"{EXAM}.npz", dess_bone=bone, dess_affine=affine)
    lake = ql.ingest(root, tmp_path / "l.lake", masks=masks).lake
    (tmp_path / "lost").rename(whole.paths[0])
    result = ql.ingest(root, lake, repair=True)
    assert (reasons(result), result.replaced) == ([Reason.GRID_MISMATCH], 0)
    assert image_of(result.lake).shape == (5, 8, 6)


def test_ingest__replace_names_an_exam_of_the_lake(tmp_path: Path) -> None:
    write_knee(tmp_path / "oai")
    with pytest.raises(NotFoundError, match="no exam '9000001-000m-left' in the lake"):
        ql.ingest(tmp_path / "oai", tmp_path / "l.lake", replace="9000001-000m-left")
    assert not (tmp_path / "l.lake").exists()


@pytest.mark.slow
def test_ingest__command_line_asks_and_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lake = tmp_path / "oai", str(tmp_path / "l.lake")
    first = write_knee(root)
    second = write_knee(root / "again", seed=4, time="113000", elements={"FlipAngle": 40})
    assert main(["ingest", str(root), "--lake", lake]) == 1
    printed = capsys.readouterr().out
    assert "ambiguous_series" in printed
    assert "flip angle" in printed
    assert main(["ingest", str(root), "--lake", lake, "--series", first.uid]) == 0
    assert np.array_equal(image_of(ql.open_lake(lake)), first.image[0])
    chosen = ["--series", second.uid, "--replace", EXAM]
    assert main(["ingest", str(root), "--lake", lake, *chosen]) == 0
    assert "results computed from replaced series are stale" in capsys.readouterr().out
    assert np.array_equal(image_of(ql.open_lake(lake)), second.image[0])
    assert main(["ingest", str(root), "--lake", lake, "--series", "SAG_3D_DESS"]) == 2
    assert "no series 'SAG_3D_DESS'" in capsys.readouterr().err


def test_ingest__joined_series_are_one_scan_in_the_lake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    visit = tmp_path / "oai/00m/0.C.2/9000001/20040824"
    parts = [
        write_series(visit / f"{k}", series="SAG_T2_MAP_RIGHT", echo_times=(t,), seed=k, number=k)
        for k, t in enumerate(ECHOES)
    ]
    arguments = ["ingest", str(tmp_path / "oai"), "--lake", str(tmp_path / "l.lake")]
    assert main(arguments) == 0
    assert "joined 7 series of one scan" in capsys.readouterr().out
    lake = ql.open_lake(str(tmp_path / "l.lake"))
    stored = np.concatenate([part.image for part in parts])
    assert np.array_equal(image_of(lake, group="msme"), stored)
    assert main(arguments) == 0
    assert "1 series already present" in capsys.readouterr().out
