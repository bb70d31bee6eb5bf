"""Which series of a knee is its DESS and its multi-echo series, and which are neither."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from qmri_lake.errors import InputError, Reason
from qmri_lake.execution.step import temporary_steps
from qmri_lake.oai.inventory import Inventory, inventory, read_series
from qmri_lake.oai.sequence import scan_name, spin_lock_time
from qmri_lake.schema.builtin import declare_series
from qmri_lake.schema.groups import VOLUME_DIMS, Group
from tests.oai.conftest import Written, write

WHOSE = {"patient": 42, "timepoint": 0, "knee": "right"}
EXAM = "0000042-000m-right"
ECHOES = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)
FEW = {"slices": 2, "shape": (4, 3)}
SPIN_ECHO = {"ScanningSequence": ["SE"], "MRAcquisitionType": "2D", "FlipAngle": 180}
GRADIENT_ECHO = {"ScanningSequence": ["GR"], "MRAcquisitionType": "3D", "FlipAngle": 25}
AXIAL = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


def acquire(folder: Path, series: str, *, echo_times=(5.0,), seed=0, **elements: object) -> Written:
    """Write a series of a scanner that knows nothing of the OAI."""
    options = {
        name: elements.pop(name)
        for name in ("slices", "shape", "number", "time", "uid", "spacing", "date", "start")
        if name in elements
    }
    whose = {"patient": "anon", "study": "Knee", "visit": ""}
    return write(
        folder,
        series=series,
        echo_times=echo_times,
        seed=seed,
        elements=elements,
        **whose,
        **options,
    )


def acquire_dess(folder: Path, series: str = "sag DESS we", **elements: object) -> Written:
    return acquire(folder, series, **{**GRADIENT_ECHO, "RepetitionTime": 16.3, **elements})


def acquire_echoes(root: Path, series: str, times=ECHOES, **elements: object) -> list[Written]:
    """Write one series for each echo."""
    return [
        acquire(
            root / f"{series}_{k}",
            series,
            echo_times=(time,),
            seed=10 + k,
            **{**SPIN_ECHO, **FEW, "number": 20 + k, "EchoNumbers": k + 1, **elements},
        )
        for k, time in enumerate(times)
    ]


def stacked(parts: list[Written]) -> np.ndarray:
    return np.concatenate([part.image for part in parts])


def take(root: Path, **options: object) -> Inventory:
    return inventory(root, **{**WHOSE, **options})


def reasons(found: Inventory) -> list[Reason]:
    return [problem.reason for problem in found.problems]


def images(found: Inventory) -> dict[str, np.ndarray]:
    return {series.group: read_series(series).image for series in found.series}


# -- a whole study ---------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Written, list[Written]]:
    """Every series of a session at a scanner; its DESS, and the echoes of its MESE."""
    root = tmp_path / "study"
    acquire(
        root / "loc", "localizer", **FEW, MRAcquisitionType="2D", ScanningSequence=["GR"], **AXIAL
    )
    dess = acquire_dess(root / "dess", "t2_de3d_we_sag", seed=3, SequenceName="*de3d1")
    derived = ["DERIVED", "SECONDARY"]
    acquire_dess(root / "mpr", "t2_de3d_we_cor", ImageType=[*derived, "MPR"], **FEW)
    acquire_dess(root / "mip", "t2_de3d_we_sag", ImageType=[*derived, "PROJECTION IMAGE"], **FEW)
    acquire(root / "tse", "t2_tse_sag", echo_times=(80.0,), **SPIN_ECHO)
    acquire(root / "pd", "pd_tse_fs_sag", echo_times=(12.0,), **SPIN_ECHO)
    echoes = acquire_echoes(root, "t2_map_sag")
    acquire(
        root / "phase",
        "t2_map_sag",
        echo_times=ECHOES,
        ImageType=["ORIGINAL", "PRIMARY", "P", "ND"],
        **SPIN_ECHO,
        **FEW,
    )
    computed = ["DERIVED", "PRIMARY", "M", "T2 MAP"]
    acquire(root / "map", "T2_Images", ImageType=computed, **SPIN_ECHO, **FEW)
    acquire(root / "field", "gre_b0", ScanningSequence=["GR"], MRAcquisitionType="2D", **FEW)
    for k, time in enumerate((0, 10, 40, 80)):
        acquire(root / f"rho{k}", f"t1rho_TSL{time}", number=40 + k, **GRADIENT_ECHO, **FEW)
    return root, dess, echoes


def test_inventory__whole_study_of_a_scanner(study: tuple[Path, Written, list[Written]]) -> None:
    root, dess, echoes = study
    found = take(root)
    stored = images(found)
    assert np.array_equal(stored["dess"], dess.image[0])
    assert np.array_equal(stored["msme"], stacked(echoes))
    assert {series.exam for series in found.series} == {EXAM}
    assert set(reasons(found)) == {Reason.UNKNOWN_SEQUENCE}
    assert [problem.found.partition(":")[0] for problem in found.problems] == [
        "'pd_tse_fs_sag'",
        "'t2_tse_sag'",
    ]
    assert [series.shape for series in found.series if series.group == "t1rho"] == [(4, 2, 4, 3)]
    assert found.ignored == {
        "2D gradient echo (gre_b0)": 1,
        "computed map (T2_Images)": 1,
        "localizer": 1,
        "phase (t2_map_sag)": 1,
        "projection (t2_de3d_we_sag)": 1,
        "reformat": 1,
    }
    assert any("joined 7 series of one scan: 't2_map_sag'" in note for note in found.notes)


def test_inventory__unknown_sequence_lists_what_the_header_says(
    study: tuple[Path, Written, list[Written]],
) -> None:
    (_, tse) = take(study[0]).problems
    for fact in ("'t2_tse_sag'", "echo time 80 ms", "flip angle 180", "sagittal", "6 x 8 x 6"):
        assert fact in tse.found
    assert "not stated: repetition time, sequence name" in tse.found
    assert "--series" in tse.todo


def test_inventory__chosen_series_are_the_only_ones(
    study: tuple[Path, Written, list[Written]],
) -> None:
    root, dess, echoes = study
    found = take(root, series=["dess", "T2_MAP_SAG"])  # a folder, and a description
    assert np.array_equal(images(found)["dess"], dess.image[0])
    assert np.array_equal(images(found)["msme"], stacked(echoes))
    assert reasons(found) == [Reason.UNKNOWN_SEQUENCE]  # the phase images have that name too
    assert "phase" in found.problems[0].found
    (series,) = take(root, series=dess.uid).series
    assert series.group == "dess"
    pd = take(root, series="pd_tse_fs_sag", group="dess")
    assert [series.where for series in pd.series] == ["pd"]
    with pytest.raises(InputError, match="no series 'sag dess'"):
        take(root, series=["dess", "sag dess"])


# -- repeats ---------------------------------------------------------------------------------------

LATER = {"time": "113000", "number": 9, "seed": 1}
SEQUENCE = {"SequenceName": "*de3d1", "ProtocolName": "knee"}


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"series": "sag DESS fs"}, "description 'sag DESS we', not 'sag DESS fs'"),
        ({"SequenceName": "*de3d1we"}, "sequence name"),
        ({"ProtocolName": "hip"}, "protocol name"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, r"ImageType ORIGINAL\PRIMARY\M\DIS2D"),
        ({"ScanningSequence": ["GR", "IR"]}, "ScanningSequence GR, not GR\\IR"),
        ({"FlipAngle": 40}, "flip angle 25, not 40 deg"),
        ({"RepetitionTime": 19}, "repetition time 16.3, not 19 ms"),
        ({"echo_times": (7.0,), "slices": 8}, "echo times 5, not 7 ms"),
        ({"shape": (6, 8)}, "matrix 8 x 6, not 6 x 8"),
        ({"PixelSpacing": [0.5, 0.45]}, "voxels 0.7 x 0.5 x 0.4, not 0.7 x 0.5 x 0.45 mm"),
        ({"spacing": 0.9}, "voxels 0.7"),
    ],
)
def test_inventory__another_sequence_is_no_repeat(
    tmp_path: Path, changed: dict[str, object], differs: str
) -> None:
    acquire_dess(tmp_path / "a", slices=4, **SEQUENCE)
    acquire_dess(tmp_path / "b", **{"slices": 4, **SEQUENCE, **LATER, **changed})
    found = take(tmp_path)
    assert reasons(found) == [Reason.AMBIGUOUS_SERIES]
    (problem,) = found.problems
    assert problem.exam == EXAM
    assert " in a (series" in problem.found
    assert " in b (series" in problem.found
    assert differs in problem.found
    for where in ("a", "b"):
        assert [s.where for s in take(tmp_path, series=where).series] == [where]


def test_inventory__repeat_within_the_tolerances(tmp_path: Path) -> None:
    acquire_dess(tmp_path / "a", **SEQUENCE)
    near = {"FlipAngle": 25.4, "RepetitionTime": 16.8, "PixelSpacing": [0.502, 0.4]}
    acquire_dess(
        tmp_path / "b",
        "SAG  dess WE_right",
        echo_times=(5.04,),
        slices=7,
        **near,
        **LATER,
        **SEQUENCE,
    )
    found = take(tmp_path)
    assert found.problems == ()
    assert [(repeat.dropped, repeat.kept) for repeat in found.repeats] == [("a", "b")]


def test_inventory__aborted_scan_never_displaces_a_whole_one(tmp_path: Path) -> None:
    acquire_dess(tmp_path / "whole")
    acquire_dess(tmp_path / "aborted", slices=2, **LATER)
    (problem,) = take(tmp_path).problems
    assert problem.reason is Reason.AMBIGUOUS_SERIES
    assert "6 slices, not 2" in problem.found
    again = acquire_dess(tmp_path / "again", **{**LATER, "time": "120000"})
    found = take(tmp_path)
    assert found.problems == ()
    assert np.array_equal(images(found)["dess"], again.image[0])


@pytest.mark.parametrize("index", [0, 3, 5])
def test_inventory__one_bit_of_a_series_uid(tmp_path: Path, index: int) -> None:
    written = acquire_dess(tmp_path / "dess", uid="1.2.3.4")
    path = written.paths[index]
    path.write_bytes(path.read_bytes().replace(b"1.2.3.4", b"1.2.3.5"))
    found = take(tmp_path)
    assert found.series == ()
    assert Reason.AMBIGUOUS_SERIES in reasons(found)
    whole = acquire_dess(tmp_path / "again", **LATER)
    assert np.array_equal(images(take(tmp_path / "again"))["dess"], whole.image[0])


def test_inventory__damaged_scan_is_no_reason_to_keep_a_shorter_one(tmp_path: Path) -> None:
    damaged = acquire_dess(tmp_path / "a").paths[2]
    damaged.write_bytes(damaged.read_bytes()[:-20])
    acquire_dess(tmp_path / "b", slices=3, **LATER)
    assert reasons(take(tmp_path)) == [Reason.TRUNCATED_FILE, Reason.AMBIGUOUS_SERIES]
    shutil.rmtree(tmp_path / "b")
    acquire_dess(tmp_path / "b", **LATER)
    found = take(tmp_path)
    assert reasons(found) == [Reason.TRUNCATED_FILE]
    assert [series.where for series in found.series] == ["b"]


@pytest.mark.parametrize("shared", ["1.2.3.4", "1.2.3"])
def test_inventory__one_uid_for_several_patients_and_series(tmp_path: Path, shared: str) -> None:
    for patient in (9000001, 9000002):
        for series, times in (("SAG_3D_DESS_RIGHT", (4.7,)), ("SAG_T2_MAP_RIGHT", ECHOES)):
            options = {"patient": str(patient), "uid": "1.2.3.4", **FEW}
            folder = tmp_path / f"{patient}" / series
            written = write(folder, series=series, echo_times=times, **options)
            for path in written.paths:
                content = path.read_bytes()
                path.write_bytes(content.replace(b"1.2.3.4", shared.encode().ljust(7, b"\0")))
    found = inventory(tmp_path)
    assert found.problems == ()
    assert len(found.series) == 4
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*(tmp_path / "9000001").rglob("0*")]:
        path.rename(flat / f"{path.parent.name}{path.name}")
    (problem,) = inventory(flat).problems
    assert problem.reason in (Reason.AMBIGUOUS_SERIES, Reason.INCONSISTENT_GEOMETRY)


# -- series of one scan ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "group"),
    [("t2_map_sag", None), ("T2 MESE TE{}", None), ("SE_MC Echo {}", None), ("knee", "msme")],
)
def test_inventory__joins_one_series_an_echo(tmp_path: Path, names: str, group: str | None) -> None:
    parts = []
    for k, time in enumerate(reversed(ECHOES)):  # in any order
        name = names.format(f"{time:g}")
        (part,) = acquire_echoes(tmp_path, name, (time,), number=k, EchoNumbers=1)
        part.folder.rename(tmp_path / f"{k}")
        parts.insert(0, part)
    found = take(tmp_path, group=group)
    (series,) = found.series
    volume = read_series(series)
    assert np.array_equal(volume.image, stacked(parts))
    assert volume.echo_time.tolist() == [*ECHOES]
    assert volume.uid == parts[0].uid
    np.testing.assert_allclose(volume.affine, parts[0].affine, atol=1e-5)
    assert (found.problems, found.repeats, len(found.notes)) == ((), (), 1)


def test_inventory__joins_echoes_parted_over_tars(tmp_path: Path) -> None:
    odd, even = ECHOES[::2], ECHOES[1::2]
    parts = [
        acquire(tmp_path / name, "t2", echo_times=times, seed=len(name), **FEW)
        for name, times in (("a", odd), ("bb", even))
    ]
    for part in parts:
        with tarfile.open(f"{part.folder}.tar.gz", "w:gz") as tar:
            tar.add(part.folder, arcname="x")
        shutil.rmtree(part.folder)
    (series,) = take(tmp_path).series
    image = np.empty((7, *parts[0].image.shape[1:]), np.float32)
    image[::2], image[1::2] = parts[0].image, parts[1].image
    assert np.array_equal(read_series(series).image, image)


def test_inventory__repeated_scan_of_one_series_an_echo(tmp_path: Path) -> None:
    acquire_echoes(tmp_path / "a", "t2_map", ECHOES[:3])
    later = acquire_echoes(tmp_path / "b", "t2_map", ECHOES[:3], time="113000")
    found = take(tmp_path)
    assert found.problems == ()
    assert np.array_equal(images(found)["msme"], stacked(later))
    assert [repeat.kept for repeat in found.repeats] == ["b/t2_map_0"]


def lose_a_series(parts: list[Written]) -> None:
    shutil.rmtree(parts[3].folder)


def lose_a_series_without_numbers(parts: list[Written]) -> None:
    for part in parts:
        for path in part.paths:
            header = pydicom.dcmread(path)
            del header.EchoNumbers
            header.save_as(path)
    lose_a_series(parts)


def truncate_the_last_series(parts: list[Written]) -> None:
    path = parts[-1].paths[1]
    path.write_bytes(path.read_bytes()[:-20])


def shorten_the_last_series(parts: list[Written]) -> None:
    parts[-1].paths[-1].unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        lose_a_series,
        lose_a_series_without_numbers,
        truncate_the_last_series,
        shorten_the_last_series,
    ],
)
def test_inventory__scan_without_one_of_its_echoes(
    tmp_path: Path, spoil: Callable[[list[Written]], None]
) -> None:
    spoil(acquire_echoes(tmp_path, "t2_map"))
    found = take(tmp_path)
    assert found.series == ()
    assert set(reasons(found)) & {Reason.MISSING_ECHO, Reason.UNKNOWN_SEQUENCE}


def test_inventory__single_echo_is_no_multi_echo_series(tmp_path: Path) -> None:
    acquire_echoes(tmp_path, "t2_map", (30.0,))
    for group in (None, "msme"):
        (problem,) = take(tmp_path, group=group).problems
        assert problem.reason is Reason.UNKNOWN_SEQUENCE
        assert "one echo time in a MSME series" in problem.found


def test_inventory__spin_lock_times_of_a_declared_group(tmp_path: Path) -> None:
    times = (80, 0, 40)
    parts = [
        acquire(tmp_path / f"{time}", f"t1rho_sag TSL={time}ms", seed=time, number=k, **FEW)
        for k, time in enumerate(times)
    ]
    with temporary_steps():
        dims = ("spin_lock", *VOLUME_DIMS)
        declare_series(Group("mapss", 45, "T1rho", dims=dims, series="T1RHO"))
        (series,) = take(tmp_path).series
        volume = read_series(series)
    assert series.group == "mapss"
    assert volume.echo_time.tolist() == [0, 40, 80]
    assert np.array_equal(volume.image, stacked([parts[1], parts[2], parts[0]]))


def test_scan_name__and_spin_lock_time() -> None:
    assert scan_name("T2 map TE=10 ms") == scan_name("t2_map_TE20ms") == "T2 MAP"
    assert scan_name("SAG_T2_MAP_RIGHT") == "SAG T2 MAP"
    assert scan_name("sag_t2") != scan_name("sag_t1")
    assert spin_lock_time("T1rho_SL12,5ms_sag") == 12.5
    assert np.isnan(spin_lock_time("T1rho"))


# -- evidence of a DESS ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["DESS", "SAG_3D_DESS", "qDESS knee", "t2_de3d_we", "3D-DESS-WE", "Dual Echo Steady State"],
)
def test_inventory__names_of_the_dess(tmp_path: Path, name: str) -> None:
    acquire(tmp_path / "a", name, **FEW)
    assert [series.group for series in take(tmp_path).series] == ["dess"]


@pytest.mark.parametrize(
    "name", ["Odessa", "FISP", "sag T1 VIBE", "PD SPACE", "addressed", "T1rho", "", "qDESS T2 map"]
)
def test_inventory__other_names_are_no_dess(tmp_path: Path, name: str) -> None:
    acquire(tmp_path / "a", name, **FEW)
    found = take(tmp_path)
    assert (reasons(found), found.series) == ([Reason.UNKNOWN_SEQUENCE], ())


@pytest.mark.parametrize(
    "elements",
    [
        {"echo_times": (29.6,)},
        {"echo_times": (9.0,), "RepetitionTime": 8.0},
        {"EchoNumbers": 2},
        {"series": "qDESS echo 2"},
        {"ScanningSequence": ["SE"]},
    ],
)
def test_inventory__second_echo_is_no_dess(tmp_path: Path, elements: dict[str, object]) -> None:
    acquire(tmp_path / "a", **{"series": "qDESS", **FEW, **elements})
    (problem,) = take(tmp_path).problems
    assert problem.reason is Reason.UNKNOWN_SEQUENCE
    assert "DESS" in problem.found.partition(";")[0]
    assert [s.group for s in take(tmp_path, group="dess").series] == [
        "dess"
    ]  # the user names the group


def test_inventory__two_echoes_of_a_dess_are_not_chosen_between(tmp_path: Path) -> None:
    first, second = (
        acquire(tmp_path / f"e{k}", "qDESS", echo_times=(time,), seed=k, number=k, **FEW)
        for k, time in enumerate((6.4, 29.6))
    )
    (problem,) = take(tmp_path, group="dess").problems
    assert problem.reason is Reason.AMBIGUOUS_SERIES
    assert "echo times 6.4, 29.6 ms" in problem.found
    assert np.array_equal(images(take(tmp_path))["qdess"], stacked([first, second]))
    assert np.array_equal(images(take(tmp_path, series=first.uid))["dess"], first.image[0])
    assert reasons(take(tmp_path, series=second.uid)) == [Reason.UNKNOWN_SEQUENCE]
    both = acquire(tmp_path / "both/x", "qDESS", echo_times=(6.4, 29.6))
    assert np.array_equal(images(take(both.folder))["qdess"], both.image)
    assert reasons(take(both.folder, group="dess")) == [Reason.AMBIGUOUS_SERIES]


@pytest.mark.parametrize(
    ("name", "times", "elements"),
    [
        ("pd+t2 tse", (12.0, 80.0), SPIN_ECHO),
        ("t2*_map", ECHOES, SPIN_ECHO),
        ("knee", ECHOES, GRADIENT_ECHO),
        ("dixon", (1.2, 2.4, 3.6), {}),
        ("me-gre dixon", (1.2, 2.4, 3.6), GRADIENT_ECHO),
    ],
)
def test_inventory__several_echoes_of_another_sequence(
    tmp_path: Path, name: str, times: tuple[float, ...], elements: dict[str, object]
) -> None:
    acquire(tmp_path / "a", name, echo_times=times, **elements, **FEW)
    found = take(tmp_path)
    assert (reasons(found), found.series) == ([Reason.UNKNOWN_SEQUENCE], ())


# -- kinds of images -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        (["ORIGINAL", "PRIMARY", "P", "ND"], "phase"),
        (["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "SE"], "phase"),
        (["ORIGINAL", "PRIMARY", "R_SE", "R", "SE"], "real"),
        (["ORIGINAL", "PRIMARY", "I", "ND"], "imaginary"),
        (["DERIVED", "PRIMARY", "T2 MAP"], "computed map"),
        (["DERIVED", "SECONDARY", "R2"], "computed map"),
        (["ORIGINAL", "PRIMARY", "T2 MAP", "T2", "UNSPECIFIED"], "computed map"),
        (["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "mosaic"),
        (["DERIVED", "SECONDARY", "MPR", "CSA MPR"], "reformat"),
        (["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"], "reformat"),
        (["DERIVED", "SECONDARY", "MIN IP"], "projection"),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE"], "projection"),
        (["DERIVED", "PRIMARY", "OTHER"], ""),
    ],
)
def test_inventory__kinds_of_images_are_never_stored(
    tmp_path: Path, image_type: list[str], kind: str
) -> None:
    series = "SAG_3D_DESS_RIGHT"
    acquire(tmp_path / "a", series, slices=2, ImageType=image_type)
    assert take(tmp_path, group="dess").series == ()
    found = take(tmp_path)
    if kind:
        assert [*found.ignored] == [kind if kind == "reformat" else f"{kind} ({series})"]
        assert found.problems == ()
    else:  # a series that could have been the image is listed
        assert reasons(found) == [Reason.UNKNOWN_SEQUENCE]
        assert "derived image" in found.problems[0].found
    chosen = take(tmp_path, series=series)
    assert (reasons(chosen), chosen.series) == ([Reason.UNKNOWN_SEQUENCE], ())


@pytest.mark.parametrize(
    "elements",
    [{"ComplexImageComponent": "PHASE"}, {"ge": 1}, {"SeriesDescription": "sag DESS_Pha"}],
)
def test_inventory__phase_images_by_other_elements(
    tmp_path: Path, elements: dict[str, object]
) -> None:
    written = acquire(tmp_path / "a", "sag DESS", ImageType=["ORIGINAL", "PRIMARY", "OTHER"])
    for path in written.paths:
        header = pydicom.dcmread(path)
        for keyword, value in elements.items():
            if keyword == "ge":
                block = header.private_block(0x0043, "GEMS_PARM_01", create=True)
                block.add_new(0x2F, "SS", value)
            else:
                setattr(header, keyword, value)
        header.save_as(path)
    found = take(tmp_path)
    assert [kind.partition(" ")[0] for kind in found.ignored] == ["phase"]
    assert (found.series, found.problems) == ((), ())


@pytest.mark.parametrize(
    ("image_type", "times", "kind"),
    [
        (["ORIGINAL", "PRIMARY", "P", "ND"], ECHOES[:3], "phase"),
        (["DERIVED", "PRIMARY", "M", "RMS"], ECHOES[:1], "derived image"),
        (["DERIVED", "PRIMARY", "M", "T2 MAP"], ECHOES[:1], "computed map"),
        (["DERIVED", "PRIMARY", "M", "T2 MAP"], (0.0,), "computed map"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_inventory__images_of_another_kind_in_a_series(
    tmp_path: Path, image_type: list[str], times: tuple[float, ...], kind: str, packed: bool
) -> None:
    root = tmp_path / "in"
    echoes = acquire(root / "a", "t2_map", echo_times=ECHOES[:3], uid="1.2.3", **FEW)
    acquire(
        root / "a", "t2_map", echo_times=times, uid="1.2.3", start=100, ImageType=image_type, **FEW
    )
    if packed:
        with tarfile.open(tmp_path / "in.tar", "w") as tar:
            tar.add(root, arcname="in")
        root = tmp_path / "in.tar"
    found = take(root)
    assert np.array_equal(images(found)["msme"], echoes.image)
    assert (found.problems, found.ignored) == ((), {f"{kind} (t2_map)": 1})


@pytest.mark.parametrize("index", [0, 2, 5])
def test_inventory__image_type_of_one_slice(
    tmp_path: Path, index: int, set_header: Callable[..., None]
) -> None:
    written = acquire_dess(tmp_path / "a")
    set_header(written.paths[index], ImageType=["ORIGINAL", "PRIMARY", "I", "DIS2D"])
    found = take(tmp_path)
    assert reasons(found) == [Reason.INCONSISTENT_GEOMETRY]
    assert "signal and imaginary" in found.problems[0].found
