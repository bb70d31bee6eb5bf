"""Which series of a knee are T1rho, a gradient-echo train for T2*, or both echoes of a DESS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from qmri_lake.errors import Reason
from qmri_lake.oai.inventory import read_series
from tests.oai.conftest import Written
from tests.oai.test_sequence import (
    FEW,
    GRADIENT_ECHO,
    SPIN_ECHO,
    acquire,
    images,
    reasons,
    stacked,
    take,
)

STEADY = {**GRADIENT_ECHO, **FEW, "RepetitionTime": 20.0, "FlipAngle": 20}
TRAIN = (4.0, 9.0, 14.0)


def set_spoiler(written: Written, area: str, duration: str, creator: str = "GEMS_ACQU_01") -> None:
    for path in written.paths:
        header = pydicom.dcmread(path)
        block = header.private_block(0x0019, creator, create=True)
        block.add_new(0xB6, "DS", area)
        block.add_new(0xB7, "DS", duration)
        header.save_as(path)


# -- qDESS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("SAG 3D qDESS", {}),
        ("SAG_3D_qDESS", {"ScanningSequence": ["RM"]}),
        ("t2_de3d_we", {}),
        ("qDESS T2 map", {"ScanningSequence": ["RM"]}),
        ("Sag T2 map", {"ScanningSequence": ["RM"]}),  # the second echo is after the repetition
        ("SAG_3D_DESS_RIGHT", {}),
    ],
)
def test_inventory__one_series_with_both_echoes(
    tmp_path: Path, name: str, elements: dict[str, object]
) -> None:
    both = acquire(tmp_path / "a", name, echo_times=(6.4, 33.6), **{**STEADY, **elements})
    found = take(tmp_path)
    (series,) = found.series
    assert (series.group, found.problems) == ("qdess", ())
    assert series.parameters["repetition_time"] == 20
    assert series.parameters["flip_angle"] == 20
    assert np.isnan(series.parameters["gradient_area"])
    assert any("without the spoiler gradient" in note for note in found.notes)
    volume = read_series(series)
    assert volume.echo_time.tolist() == [6.4, 33.6]
    assert np.array_equal(volume.image, both.image)


@pytest.mark.parametrize(
    "names",
    [
        ("t2_de3d_we_E1", "t2_de3d_we_E2"),
        ("DESS 1st echo", "DESS 2nd echo"),
        ("DESS S1", "DESS S2"),
        ("qDESS", "qDESS"),
    ],
)
@pytest.mark.parametrize("times", [(6.4, 33.6), (6.4, 6.4)])
def test_inventory__one_series_for_each_echo(
    tmp_path: Path, names: tuple[str, str], times: tuple[float, float]
) -> None:
    parts = [
        acquire(
            tmp_path / f"{k}",
            name,
            echo_times=(time,),
            EchoNumbers=k + 1,
            seed=k,
            number=5 - k,
            **STEADY,
        )
        for k, (name, time) in enumerate(zip(names, times, strict=True))
    ]
    found = take(tmp_path)
    assert np.array_equal(images(found)["qdess"], stacked(parts))
    (series,) = found.series
    # A header that repeats the time of the first echo does not state that of the second.
    assert read_series(series).echo_time.tolist() == [6.4, 33.6]
    assert found.problems == ()


def test_inventory__one_series_whose_echoes_differ_in_their_number_only(tmp_path: Path) -> None:
    both = acquire(tmp_path / "a", "qDESS", echo_times=(6.4, 33.6), **STEADY)
    for k, path in enumerate(both.paths):
        header = pydicom.dcmread(path)
        header.EchoTime, header.EchoNumbers = 6.4, 1 + (k >= FEW["slices"])
        header.save_as(path)
    found = take(tmp_path)
    assert np.array_equal(images(found)["qdess"], both.image)


def test_inventory__spoiler_of_a_qdess(tmp_path: Path) -> None:
    both = acquire(tmp_path / "a", "qDESS", echo_times=(6.4, 33.6), **STEADY)
    set_spoiler(both, "3132", "1904")
    found = take(tmp_path)
    assert found.series[0].parameters["gradient_area"] == pytest.approx(31.32)  # mT ms/m
    assert found.series[0].parameters["gradient_duration"] == pytest.approx(1.904)
    assert not [note for note in found.notes if "spoiler" in note]


@pytest.mark.parametrize(
    ("area", "duration", "creator"),
    [("0", "1904", "GEMS_ACQU_01"), ("", "", "GEMS_ACQU_01"), ("3132", "1904", "SIEMENS MR")],
)
def test_inventory__private_elements_that_are_no_spoiler(
    tmp_path: Path, area: str, duration: str, creator: str
) -> None:
    both = acquire(tmp_path / "a", "qDESS", echo_times=(6.4, 33.6), **STEADY)
    set_spoiler(both, area, duration, creator)
    (series,) = take(tmp_path).series
    assert np.isnan([series.parameters[f"gradient_{n}"] for n in ("area", "duration")]).all()


def test_inventory__combined_or_first_echo_stays_a_dess(tmp_path: Path) -> None:
    first = acquire(tmp_path / "a", "qDESS", echo_times=(6.4,), EchoNumbers=1, **STEADY)
    assert np.array_equal(images(take(tmp_path))["dess"], first.image[0])
    combined = acquire(tmp_path / "b", "dess_combined", echo_times=(5.0,), **STEADY)
    both = acquire(tmp_path / "c", "qdess", echo_times=(6.4, 33.6), **STEADY)
    found = take(tmp_path, series=["dess_combined", "c"])
    assert np.array_equal(images(found)["dess"], combined.image[0])
    assert np.array_equal(images(found)["qdess"], both.image)


def test_inventory__three_echoes_are_no_qdess(tmp_path: Path) -> None:
    acquire(tmp_path / "a", "knee", echo_times=TRAIN, **STEADY)
    (problem,) = take(tmp_path, group="qdess").problems
    assert problem.reason is Reason.AMBIGUOUS_SERIES
    assert problem.expected == "2 images in a QDESS series"


# -- T1rho -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["T1rho", "sag_t1-rho_fs", "MAPSS", "T1\u03c1", "spin lock", "T1R"]
)
def test_inventory__spin_lock_times_in_echo_time(tmp_path: Path, name: str) -> None:
    written = acquire(
        tmp_path / "a", name, echo_times=(1.0, 10.0, 20.0, 30.0), EchoTrainLength=64,
        SpecificCharacterSet="ISO_IR 192", **STEADY,
    )  # fmt: skip
    found = take(tmp_path)
    (series,) = found.series
    assert (series.group, found.problems) == ("t1rho", ())
    assert np.array_equal(read_series(series).image, written.image)
    assert found.notes == ("1 T1rho series with spin-lock times in EchoTime",)


def test_inventory__one_series_for_each_spin_lock_time(tmp_path: Path) -> None:
    by_name = [
        acquire(tmp_path / f"n{t}", f"T1rho_TSL{t}", echo_times=(4.0,), seed=t, number=t, **STEADY)
        for t in (0, 10, 50)
    ]
    (series,) = take(tmp_path).series
    volume = read_series(series)
    assert volume.echo_time.tolist() == [0, 10, 50]
    assert np.array_equal(volume.image, stacked(by_name))
    by_echo_time = [
        acquire(tmp_path / "e" / f"{t}", "T1rho", echo_times=(t,), number=k, seed=k, **STEADY)
        for k, t in enumerate((1.0, 10.0, 20.0, 50.0))  # a gap that is no missing echo
    ]
    (series,) = take(tmp_path / "e").series
    assert np.array_equal(read_series(series).image, stacked(by_echo_time))


def test_inventory__one_spin_lock_time_is_no_series(tmp_path: Path) -> None:
    acquire(tmp_path / "a", "T1rho_TSL10", **STEADY)
    (problem,) = take(tmp_path).problems
    assert problem.reason is Reason.UNKNOWN_SEQUENCE
    assert "one spin-lock time in a T1RHO series" in problem.found
    assert problem.expected == "all spin-lock times of the scan"


def test_inventory__t1_of_a_right_knee_is_no_t1rho(tmp_path: Path) -> None:
    acquire(tmp_path / "a", "cor T1 R", echo_times=(12.0,), **SPIN_ECHO, **FEW)
    (problem,) = take(tmp_path).problems
    assert "spin-lock" not in problem.found


# -- T2* -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        *((name, "3D") for name in ("T2*_map", "t2_star", "MEGRE sag", "MERGE", "mFFE")),
        *((name, "2D") for name in ("ME-GRE", "MEDIC", "sag_R2STAR")),
    ],
)
def test_inventory__gradient_echo_trains(tmp_path: Path, name: str, dimension: str) -> None:
    elements = {**STEADY, "MRAcquisitionType": dimension}
    magnitude = acquire(tmp_path / "a", name, echo_times=TRAIN, uid="1.2.3", **elements)
    acquire(
        tmp_path / "a", name, echo_times=TRAIN, uid="1.2.3", start=100, seed=1,
        ImageType=["ORIGINAL", "PRIMARY", "P", "ND"], **elements,
    )  # fmt: skip
    found = take(tmp_path)
    assert np.array_equal(images(found)["t2star"], magnitude.image)
    assert found.ignored == {f"phase ({name})": 1}
    assert found.problems == ()


@pytest.mark.parametrize("component", ["P", "R", "I"])
def test_inventory__series_of_phase_or_complex_images_are_no_data(
    tmp_path: Path, component: str
) -> None:
    acquire(
        tmp_path / "a", "T2*_map", echo_times=TRAIN,
        ImageType=["ORIGINAL", "PRIMARY", component, "ND"], **STEADY,
    )  # fmt: skip
    found = take(tmp_path)
    assert (found.series, found.problems) == ((), ())
    assert sum(found.ignored.values()) == 1


@pytest.mark.parametrize("name", ["ME-GRE dixon", "gre_field_mapping ME-GRE", "swi_mFFE"])
def test_inventory__trains_for_something_else(tmp_path: Path, name: str) -> None:
    acquire(tmp_path / "a", name, echo_times=TRAIN, **STEADY)
    assert (reasons(take(tmp_path)), take(tmp_path).series) == ([Reason.UNKNOWN_SEQUENCE], ())


def test_inventory__a_combined_train_is_ignored_as_before(tmp_path: Path) -> None:
    acquire(tmp_path / "a", "t2_medic", echo_times=(14.0,), **{**STEADY, "MRAcquisitionType": "2D"})
    found = take(tmp_path)
    assert (found.series, found.problems) == ((), ())
    assert found.ignored == {"2D gradient echo (t2_medic)": 1}


@pytest.mark.parametrize("group", ["t1rho", "t2star"])
def test_inventory__a_group_that_the_user_names(tmp_path: Path, group: str) -> None:
    written = acquire(tmp_path / "a", "knee", echo_times=TRAIN, **STEADY)
    assert np.array_equal(images(take(tmp_path, group=group))[group], written.image)
