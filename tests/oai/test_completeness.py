"""What headers say of files that are missing, although the others form a regular grid."""

from __future__ import annotations

import io
from dataclasses import replace
from math import nan

import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.completeness import assess
from qmri_lake.oai.dicom import read_dicom
from qmri_lake.oai.geometry import arrange
from qmri_lake.oai.header import read_header
from qmri_lake.oai.inventory import inventory

TIMES = (10.0, 20.0, 30.0, 40.0)
EIGHT = tuple(6.312 * k for k in range(1, 9))


@pytest.fixture
def series(tmp_path, write_series):
    """Headers of a series, of which files may be lost."""
    path = write_series(tmp_path, slices=1, series="knee", study="").paths[0]
    with path.open("rb") as stream:
        first = read_header(stream, "001", path.stat().st_size)

    def build(keep=lambda e, k: True, *, times=(5.0,), slices=6, fastest="slice", **elements):
        headers = []
        for echo, time in enumerate(times):
            for k in range(slices):
                if not keep(echo, k):
                    continue
                number = echo * slices + k if fastest == "slice" else k * len(times) + echo
                values = {
                    "echo_time": time,
                    "echo_number": echo + 1.0,
                    "instance_number": number + 1.0,
                    "position": (3.0 * k, 0.0, 0.0),
                    "orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
                    "slice_thickness": 3.0,
                } | elements
                headers.append(replace(first, **values))
        return assess(headers, arrange(headers), "scan")

    return build


def even(_, k):
    return k % 2 == 0


@pytest.mark.parametrize("spacing", [3.0, nan, 0.5])
@pytest.mark.parametrize("fastest", ["slice", "echo"])
@pytest.mark.parametrize("times", [(5.0,), TIMES])
def test_assess__whole_series(series, spacing, fastest, times):
    found = series(times=times, fastest=fastest, spacing_between_slices=spacing)
    assert (found.missing, found.doubt) == (None, None)


def test_assess__spacing_written_as_the_gap_between_slices(series):
    # 2.5 mm thick with a gap of 0.5 mm: centres are 3 mm apart, six times the gap.
    found = series(slice_thickness=2.5, spacing_between_slices=0.5, instance_number=nan)
    assert found.missing is None


@pytest.mark.parametrize(
    "headers",
    [
        {"spacing_between_slices": 3.0},
        {"spacing_between_slices": 3.0, "instance_number": nan},
        {"spacing_between_slices": nan},  # the thickness and the step of numbers agree
        {"spacing_between_slices": 3.0, "times": TIMES, "fastest": "echo"},
    ],
)
def test_assess__every_second_slice_lost(series, headers):
    found = series(even, **headers)
    assert found.missing.reason is Reason.MISSING_SLICE
    assert "slices 6 mm apart" in str(found.missing)


def test_assess__slices_between_images_of_another_kind(series):
    # Magnitude images with odd numbers; phase images have the even ones.
    found = series(even, slices=12, spacing_between_slices=6.0, slice_thickness=6.0)
    assert (found.missing, found.doubt) == (None, None)


@pytest.mark.parametrize(
    ("lost", "headers"),
    [
        (0, {}),  # numbers begin at 2
        (0, {"times": TIMES}),
        (5, {"times": TIMES}),  # a number is absent between echoes
        (0, {"times": TIMES, "fastest": "echo"}),
    ],
)
def test_assess__end_slice_lost_is_a_doubt(series, lost, headers):
    found = series(lambda e, k: k != lost, **headers)
    assert found.missing is None
    assert found.doubt.reason is Reason.NUMBERING_GAP
    assert "InstanceNumber" in found.doubt.found


def test_assess__end_slice_lost_by_the_count_of_the_scanner(series):
    found = series(lambda e, k: k != 5, times=TIMES, fastest="echo", images_in_acquisition=24.0)
    assert found.missing.reason is Reason.MISSING_SLICE
    assert "20 files (expected ImagesInAcquisition = 24)" in str(found.missing)


def test_assess__one_slice_of_several_is_a_choice(series):
    found = series(lambda e, k: k == 2, times=EIGHT, fastest="echo", images_in_acquisition=48.0)
    assert (found.missing, found.doubt) == (None, None)


@pytest.mark.parametrize(
    ("lost", "headers", "said"),
    [
        ((0,), {}, "EchoNumbers from 0 or 1"),
        ((1,), {}, "EchoNumbers 1 to 4 without gaps"),
        ((3,), {"echo_train_length": 4.0}, "EchoTrainLength = 4"),
        ((0,), {"echo_train_length": 4.0, "echo_number": nan}, "EchoTrainLength = 4"),
        ((3,), {"series_description": "SAG_T2_MAP_RIGHT"}, "7, as in the OAI"),
        ((1, 2, 3), {"series_description": "SAG_T2_MAP_RIGHT"}, "7, as in the OAI"),
    ],
)
def test_assess__lost_echo(series, lost, headers, said):
    found = series(lambda e, k: e not in lost, times=TIMES, **headers)
    assert found.missing.reason is Reason.MISSING_ECHO
    assert said in str(found.missing)


def test_assess__one_of_several_time_points(series):
    found = series(temporal_positions=4.0, temporal_position=1.0)
    assert found.missing is None


@pytest.mark.parametrize(
    "headers",
    [
        {"echo_train_length": 7.0, "times": (14.0,)},  # a turbo spin echo
        {"echo_train_length": 14.0, "times": (14.0, 80.0)},  # with two contrasts
        {"echo_train_length": 64.0, "times": (0.5, 13.2, 25.9, 51.2)},  # after a preparation
        {"echo_train_length": 1.0, "times": EIGHT},  # as some scanners write it
        {"echo_number": 1.0, "times": TIMES},
    ],
)
def test_assess__echo_trains_of_other_sequences(series, headers):
    assert series(**headers).missing is None


@pytest.mark.parametrize("times", [(4.71,), (4.7, 9.4, 14.1)])
def test_read_dicom__exchanged_slices(tmp_path, write_series, set_header, times):
    paths = write_series(tmp_path, slices=8, shape=(2, 2), echo_times=times).paths
    set_header(paths[5], InstanceNumber=6)
    set_header(paths[6], InstanceNumber=5)
    with pytest.raises(InputError, match="contradicts the order of 2 slices") as error:
        read_dicom(tmp_path)
    assert error.value.reason is Reason.INCONSISTENT_GEOMETRY


def test_inventory__stores_a_doubtful_series_and_lists_it(tmp_path, write_series):
    for path in write_series(tmp_path, patient="9000002", slices=9).paths[:3]:
        path.unlink()
    found = inventory(tmp_path)
    assert len(found.series) == 1
    (problem,) = found.problems
    assert (problem.reason, problem.exam) == (Reason.NUMBERING_GAP, "9000002-000m-right")
    assert problem.found == "InstanceNumber 3 to 8 for 6 images"


def test_inventory__oai_t2_map_without_all_echoes(tmp_path, write_series):
    write_series(tmp_path, series="SAG_T2_MAP_RIGHT", echo_times=TIMES, slices=2, shape=(2, 2))
    (problem,) = inventory(tmp_path).problems
    assert problem.reason is Reason.MISSING_ECHO
    assert problem.exam == "9000001-000m-right"


@pytest.mark.parametrize("folder", ["ge_1.5T", "philips_1.5T", "siemens_1.5T_plate4"])
def test_inventory__real_single_slices(real_data, folder):
    options = {"patient": 1, "timepoint": 0, "knee": "right"}
    found = inventory(real_data / "phantom_t2" / folder, **options)
    assert found.problems == ()
    assert len(found.series) == 1


def test_inventory__real_knee_without_its_last_slice(real_data, tmp_path):
    knee = real_data / "knee_mese"
    contents = [(p.name, p.read_bytes()) for p in sorted(knee.iterdir())]
    headers = [(read_header(io.BytesIO(data), name, len(data)), data) for name, data in contents]
    last = max(header.position for header, _ in headers)
    for header, data in headers:
        if header.position != last:
            (tmp_path / header.name).write_bytes(data)
    found = inventory(tmp_path, patient=1, timepoint=0, knee="right")
    assert found.series == ()
    assert "184 files (expected ImagesInAcquisition = 192)" in str(found.problems[0])


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_assess__other_echo_times_than_those_of_the_oai(series, factor):
    times = tuple(10.0 * k for k in range(1, 8))
    assert series(times=times, series_description="SAG_T2_MAP_LEFT").missing is None
    scaled = tuple(time * factor for time in times)
    assert series(times=scaled).missing is None
    fault = series(times=scaled, series_description="SAG_T2_MAP_LEFT").missing
    assert fault.reason is Reason.IMPLAUSIBLE_VALUE
    assert "10, 20 ... 70 ms" in fault.expected
