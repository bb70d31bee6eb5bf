"""Correction of masks by hand: files for the editors, and what comes back of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.editing.manifest import read_manifest
from qmri_lake.errors import InputError, Reason, RunError
from qmri_lake.segmentation.metrics import dice
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.tissues import BONE, CARTILAGE
from tests.masks.writers import SHAPE, affine_of, dess_lake, label_map, write_nifti

KEYS = ["9000001-000m-right", "9000001-000m-left"]
SEVEN = (1, 2, 3, 4, 5, 6, 7)
TABLE = {
    1: "femur",
    2: "tibia",
    3: "patella",
    4: "femoral",
    5: "medial tibial",
    6: "lateral tibial",
    7: "patellar",
}


@pytest.fixture(scope="module")
def with_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of four exams; two of them have masks, in which bone and cartilage overlap."""
    path: Path = tmp_path_factory.mktemp("lake") / "l.lake"
    lake = dess_lake(path)
    folder = tmp_path_factory.mktemp("masks")
    for seed, exam in enumerate(KEYS):
        labels = label_map(seed, SEVEN)
        write_nifti(folder / f"{exam}.nii", labels, affine_of(exam.split("-")[2]))
    lake = ql.ingest_masks(folder, lake, labels=TABLE, into="mask").lake

    def overlap(session: Any) -> None:
        root = open_root(session.store, "r+")
        bone = root["dess/bone"][0]
        bone[0, 0, 3:8] = 1  # where cartilage 4 to 7 is
        root["dess/bone"][0] = bone

    commit(lake.repo, overlap, "Overlap")
    return path


@pytest.fixture
def lake(with_masks: Path, tmp_path: Path) -> ql.Lake:
    return ql.open_lake(str(shutil.copytree(with_masks, tmp_path / "copy.lake")))


def masks_of(lake: ql.Lake, exam: str, *names: str) -> list[np.ndarray]:
    ds = lake.load("dess", exam=exam).isel(exam=0)
    return [np.asarray(ds[name]) for name in names]


def edit_slicer(path: Path, layer: int, old: int, new: int) -> np.ndarray:
    """Give all voxels of a label another one, as a person would in 3D Slicer."""
    values, header = nrrd.read(str(path))
    labels = values[layer] if values.ndim == 4 else values  # one kind of mask has no layers
    changed = labels == old
    labels[changed] = new
    nrrd.write(str(path), values, header)
    return np.ascontiguousarray(changed.T)


# -- the files -------------------------------------------------------------------------------------


def test_export_for_editing__slicer_files_are_on_the_grid(lake: ql.Lake, tmp_path: Path) -> None:
    result = ql.export_for_editing(lake, tmp_path / "out")
    assert result.exams == tuple(KEYS)
    assert "exported 2 exams" in str(result)
    assert "2 exams without a mask" in str(result)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        *(f"{exam}{suffix}" for exam in KEYS for suffix in (".nrrd", ".seg.nrrd")),
    }
    for exam in KEYS:
        ds = lake.load("dess", exam=exam).isel(exam=0)
        image = sitk.ReadImage(str(tmp_path / "out" / f"{exam}.nrrd"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ds.image)
        segmentation = sitk.ReadImage(str(tmp_path / "out" / f"{exam}.seg.nrrd"))
        layers = sitk.GetArrayFromImage(segmentation)
        np.testing.assert_array_equal(layers[..., 0], ds.bone)
        np.testing.assert_array_equal(layers[..., 1], ds.cartilage)
        for found in (image, segmentation):
            for index in ((0, 0, 0), (5, 8, 7), (2, 1, 6)):
                expected = ds.affine.values @ [*index, 1]
                point = found.TransformIndexToPhysicalPoint(index[::-1])
                np.testing.assert_allclose(point, expected[:3], atol=1e-4)
        header = nrrd.read_header(str(tmp_path / "out" / f"{exam}.seg.nrrd"))
        names = [header[f"Segment{n}_Name"] for n in range(7)]
        assert names[:4] == ["femur", "tibia", "patella", "femoral cartilage"]
        assert [header[f"Segment{n}_Layer"] for n in range(7)] == [*"0001111"]
        assert header["Segment0_Extent"] == "0 7 0 8 0 5"
        assert header["Segment3_Color"] == "0.835294 0.368627 0.000000"


def test_export_for_editing__itk_snap_files_are_on_the_grid(lake: ql.Lake, tmp_path: Path) -> None:
    ql.export_for_editing(lake, tmp_path / "out", f"exam == '{KEYS[1]}'", program="itksnap")
    ds = lake.load("dess", exam=KEYS[1]).isel(exam=0)
    to_ras = np.diag([-1, -1, 1, 1])
    for name, expected in (("", ds.image), ("_bone", ds.bone), ("_cartilage", ds.cartilage)):
        image = nibabel.load(tmp_path / f"out/{KEYS[1]}{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), expected)
        np.testing.assert_allclose((to_ras @ image.affine)[:, [2, 1, 0, 3]], ds.affine, atol=1e-4)
        itk = sitk.ReadImage(str(tmp_path / f"out/{KEYS[1]}{name}.nii.gz"))
        point = itk.TransformIndexToPhysicalPoint((7, 8, 5))
        np.testing.assert_allclose(point, (ds.affine.values @ [5, 8, 7, 1])[:3], atol=1e-3)
    lines = (tmp_path / "out/labels_cartilage.txt").read_text().splitlines()
    assert lines[0] == '0 0 0 0 0 0 0 "Clear Label"'
    assert lines[1] == '1 213 94 0 1 1 1 "femoral cartilage"'
    assert [line.split()[0] for line in lines] == [*"01234"]


@pytest.mark.parametrize("program", ["slicer", "itksnap"])
def test_export_for_editing__one_kind_of_mask(tmp_path: Path, program: Any) -> None:
    """References of cartilage alone, and an exam without an image."""
    labels, whose = label_map(0, (1, 2)), {"patient": 9000001, "timepoint": 0, "knee": "right"}
    path = write_nifti(tmp_path / "a.nii", labels, affine_of("right"))
    table = {1: "femoral", 2: "tibial"}
    lake = ql.ingest_masks(path, tmp_path / "l.lake", labels=table, **whose).lake
    result = ql.export_for_editing(lake, tmp_path / "out", program=program, masks="reference")
    assert result.without_image == (KEYS[0],)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert f"{KEYS[0]}.nrrd" not in names
    file = tmp_path / "out" / read_manifest(tmp_path / "out").exams[0].files["cartilage"]
    if program == "slicer":
        values, header = nrrd.read(str(file))
        assert values.shape == SHAPE[::-1]
        values[values == 2] = 1
        nrrd.write(str(file), values, header)
    else:
        image = nibabel.load(file)
        ones = np.minimum(np.asarray(image.dataobj), 1)
        nibabel.save(nibabel.Nifti1Image(ones, image.affine, image.header), file)
    result = edits(lake, tmp_path / "out", into="mask")
    assert result.paths == ("dess/reference_cartilage",)
    (stored,) = masks_of(result.lake, KEYS[0], "reference_cartilage")
    np.testing.assert_array_equal(stored, np.minimum(labels, 1))
    assert result.lake.validate(deep=True) == []


def test_export_for_editing__what_is_refused(lake: ql.Lake, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no exam of 4 has dess/reference_bone or"):
        ql.export_for_editing(lake, tmp_path / "out", masks="reference")
    with pytest.raises(InputError, match=r"no exam of 4 has dess/bone__edited"):
        ql.export_for_editing(lake, tmp_path / "out", variant="edited")
    with pytest.raises(RunError, match="program = 'mitk'"):
        ql.export_for_editing(lake, tmp_path / "out", program="mitk")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="masks = 'labels'"):
        ql.export_for_editing(lake, tmp_path / "out", masks="labels")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("")
    with pytest.raises(InputError, match="the folder is not empty"):
        ql.export_for_editing(lake, tmp_path / "full")


# -- the way back ----------------------------------------------------------------------------------


def edits(lake: ql.Lake, folder: Path, **options: Any) -> Any:
    settings = {"by": "AB", "reason": "leaks at the notch", **options}
    return ql.import_edits(folder, lake, **settings)


@pytest.mark.parametrize("program", ["slicer", "itksnap"])
def test_import_edits__an_unchanged_export_changes_nothing(
    lake: ql.Lake, tmp_path: Path, program: Any
) -> None:
    """Also where bone and cartilage overlap."""
    ql.export_for_editing(lake, tmp_path / "out", program=program)
    result = edits(lake, tmp_path / "out")
    assert (result.edited, result.unchanged, result.problems) == ((), tuple(KEYS), ())
    assert str(result) == "imported edited masks of 0 exams; 2 unchanged; 0 problems"
    assert result.lake.snapshot == lake.snapshot
    assert result.agreement.empty


def test_import_edits__a_variant_beside_the_masks(lake: ql.Lake, tmp_path: Path) -> None:
    ql.export_for_editing(lake, tmp_path / "out")
    bone, cartilage = masks_of(lake, KEYS[0], "bone", "cartilage")
    path = tmp_path / f"out/{KEYS[0]}.seg.nrrd"
    changed = edit_slicer(path, 1, CARTILAGE["patellar"], CARTILAGE["femoral"])
    result = edits(lake, tmp_path / "out")
    assert (result.edited, result.unchanged) == ((KEYS[0],), (KEYS[1],))
    assert result.paths == ("dess/cartilage__edited",)
    chosen = result.lake.cohort().require("dess/cartilage__edited")
    assert chosen.exams["exam"].tolist() == [KEYS[0]]
    expected = np.where(changed, CARTILAGE["femoral"], cartilage)
    after, same, kept = masks_of(result.lake, KEYS[0], "cartilage__edited", "cartilage", "bone")
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(same, cartilage)
    np.testing.assert_array_equal(kept, bone)
    run = result.lake.runs().iloc[-1]
    assert run["edited"] == {"by": "AB", "reason": "leaks at the notch"}
    assert run["parameters"]["into"] == "variant edited"
    assert run["parameters"]["edited_from_runs"] == {"dess/cartilage": [2]}
    assert "AB" not in json.dumps(run["parameters"])
    tissues = run["parameters"]["tissues"]
    assert set(tissues.values()) == {"femoral", "tibial", "patellar"}, "as the source has"
    # Agreement by the same formula as the scores of networks, and counted here.
    table = result.agreement.set_index("tissue")
    assert set(table["exam"]) == {KEYS[0]}
    for name in ("femoral", "tibial", "patellar"):
        before_now = cartilage == CARTILAGE[name], expected == CARTILAGE[name]
        assert table.loc[name, "voxels_before"] == before_now[0].sum()
        assert table.loc[name, "voxels_after"] == before_now[1].sum()
        assert table.loc[name, "voxels_changed"] == (before_now[0] != before_now[1]).sum()
        if name != "patellar":
            assert table.loc[name, "dsc"] == pytest.approx(dice(*before_now))
    assert (table.loc["tibial", "dsc"], table.loc["tibial", "mpts_mm"]) == (1, 0)
    assert (table.loc["patellar", "dsc"], table.loc["patellar", "reason"]) == (0, "removed")
    assert np.isnan(table.loc["patellar", "mpts_mm"])
    assert result.lake.validate(deep=True) == []
    # The same files again change nothing; others do not overwrite the edits.
    again = edits(result.lake, tmp_path / "out")
    assert (again.edited, again.problems, len(again.unchanged)) == ((), (), 2)
    edit_slicer(path, 1, CARTILAGE["femoral"], CARTILAGE["patellar"])
    (problem,) = edits(result.lake, tmp_path / "out").problems
    assert problem.reason == Reason.CHANGED_MASK
    assert "dess/cartilage__edited has another edited mask, of run 3" in problem.found
    # The variant can be edited further.
    second = ql.export_for_editing(result.lake, tmp_path / "second", variant="edited")
    assert second.exams == (KEYS[0],)
    edit_slicer(tmp_path / f"second/{KEYS[0]}.seg.nrrd", 0, 1, 2)
    again = edits(result.lake, tmp_path / "second", reason="tibia")
    assert again.edited == (KEYS[0],)
    (latest,) = masks_of(again.lake, KEYS[0], "cartilage__edited")
    np.testing.assert_array_equal(latest, np.where(expected == 1, 2, expected))


def test_import_edits__replaced_masks_make_later_steps_stale(lake: ql.Lake, tmp_path: Path) -> None:
    lake.run("check_masks")
    assert len(lake.plan("check_masks").rows) == 0
    (parts,) = masks_of(lake, KEYS[1], "cartilage_part")
    snapshot = lake.snapshot
    ql.export_for_editing(lake, tmp_path / "out", program="itksnap")
    path = tmp_path / f"out/{KEYS[1]}_cartilage.nii.gz"
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[labels == CARTILAGE["tibial"]] *= np.arange((labels == 2).sum(), dtype=np.uint8) % 2
    labels[0, 0, 0] = CARTILAGE["meniscus"]
    nibabel.save(nibabel.Nifti1Image(labels, image.affine, image.header), path)
    result = edits(lake, tmp_path / "out", into="mask")
    assert result.edited == (KEYS[1],)
    assert result.paths == ("dess/cartilage",)
    assert "stale" in result.notes[0]
    plan = result.lake.plan("check_masks")
    stale = result.lake.exams["exam"].iloc[plan.rows].tolist()
    assert (stale, plan.stale) == ([KEYS[1]], 1)
    after, kept = masks_of(result.lake, KEYS[1], "cartilage", "cartilage_part")
    expected = labels.transpose(2, 1, 0)
    np.testing.assert_array_equal(after, expected)
    before = label_map(1, SEVEN)
    same = np.array([0, 0, 0, 0, 1, 2, 2, 3])[before] == expected
    np.testing.assert_array_equal(kept, np.where(same & (expected == 2), parts, 0))
    row = result.agreement.set_index("tissue").loc["meniscus"]
    assert (row["dsc"], row["reason"]) == (0, "not in the mask before")
    assert result.lake.validate(deep=True) == []
    record = result.lake.runs().iloc[-1]["parameters"]
    assert "tissues" not in record, "with the drawn meniscus, the mask has all of them"
    # The earlier mask is in the history of the lake.
    earlier = ql.open_lake(lake.url, ref=snapshot)
    np.testing.assert_array_equal(
        masks_of(earlier, KEYS[1], "cartilage")[0], np.array([0, 0, 0, 0, 1, 2, 2, 3])[before]
    )


def test_import_edits__a_mask_that_changed_meanwhile_is_not_overwritten(
    lake: ql.Lake, tmp_path: Path
) -> None:
    ql.export_for_editing(lake, tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    edit_slicer(tmp_path / f"first/{KEYS[0]}.seg.nrrd", 0, 1, 3)
    edit_slicer(tmp_path / f"second/{KEYS[0]}.seg.nrrd", 0, 2, 3)
    result = edits(lake, tmp_path / "first", into="mask")
    assert result.edited == (KEYS[0],)
    snapshot = result.lake.snapshot
    result = edits(result.lake, tmp_path / "second", into="mask")
    (problem,) = result.problems
    assert (problem.reason, problem.exam) == (Reason.CHANGED_MASK, KEYS[0])
    assert "dess/bone is of run 3 and not as exported (run 2)" in problem.found
    assert result.lake.snapshot == snapshot
    again = edits(result.lake, tmp_path / "first", into="mask")
    assert (again.edited, again.problems, len(again.unchanged)) == ((), (), 2)


def test_import_edits__the_layers_that_slicer_merged(lake: ql.Lake, tmp_path: Path) -> None:
    """3D Slicer puts segments that do not overlap into one layer, with numbers of its own."""
    ql.export_for_editing(lake, tmp_path / "out", f"exam == '{KEYS[1]}'")
    path = tmp_path / f"out/{KEYS[1]}.seg.nrrd"
    values, header = nrrd.read(str(path))
    merged = np.zeros(values.shape[1:], np.uint8)
    for n in range(7):
        layer, value = int(header[f"Segment{n}_Layer"]), int(header[f"Segment{n}_LabelValue"])
        merged[values[layer] == value] = 7 - n
        header |= {f"Segment{n}_Layer": "0", f"Segment{n}_LabelValue": str(7 - n)}
    merged[merged == 7] = 6  # femur to tibia
    plain = {key: header[key] for key in header if key.startswith("Seg")} | {
        "space": header["space"],
        "space directions": header["space directions"][1:],
        "space origin": header["space origin"],
    }
    nrrd.write(str(path), merged, plain)
    bone, cartilage = masks_of(lake, KEYS[1], "bone", "cartilage")
    result = edits(lake, tmp_path / "out")
    assert result.paths == ("dess/bone__edited",)
    (edited,) = masks_of(result.lake, KEYS[1], "bone__edited")
    np.testing.assert_array_equal(edited, np.where(bone == 1, BONE["tibia"], bone))
    assert cartilage.any()


def test_import_edits__files_that_cannot_be_used(lake: ql.Lake, tmp_path: Path) -> None:
    cases: dict[str, tuple[Any, Reason, str]] = {
        "cut": (lambda p: p.write_bytes(p.read_bytes()[:-9]), Reason.TRUNCATED_FILE, ""),
        "absent": (lambda p: p.unlink(), Reason.UNREADABLE_FILE, "no such file"),
        "moved": (lambda p: move(p), Reason.GRID_MISMATCH, "mm beside the voxels"),
        "new segment": (lambda p: rename(p, 2, "Segment_1"), Reason.UNKNOWN_LABEL, "'Segment_1'"),
        "removed": (lambda p: rename(p, 6, None), Reason.UNKNOWN_LABEL, "no segment named 'menis"),
        "unnamed": (lambda p: edit_slicer(p, 1, 1, 9), Reason.UNKNOWN_LABEL, "unknown label 9"),
    }
    ql.export_for_editing(lake, tmp_path / "out", f"exam == '{KEYS[1]}'")
    for name, (damage, reason, found) in cases.items():
        folder = shutil.copytree(tmp_path / "out", tmp_path / name)
        damage(folder / f"{KEYS[1]}.seg.nrrd")
        result = edits(lake, folder)
        (problem,) = result.problems
        assert problem.reason == reason, name
        assert found in problem.found, name
        assert problem.exam == KEYS[1]
        assert str(tmp_path) not in str(problem)
        assert result.lake.snapshot == lake.snapshot


def move(path: Path) -> None:
    values, header = nrrd.read(str(path))
    nrrd.write(str(path), values, {**header, "space origin": header["space origin"] + 1})


def rename(path: Path, number: int, name: str | None) -> None:
    values, header = nrrd.read(str(path))
    if name is None:
        header = {key: v for key, v in header.items() if not key.startswith(f"Segment{number}_")}
    else:
        header[f"Segment{number}_Name"] = name
    nrrd.write(str(path), values, header)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ""}, "no by .expected initials or a role"),
        ({"by": "Alexandra Example-Name"}, "by of 22 characters"),
        ({"by": "ab@example.org"}, "by of 14 characters"),
        ({"reason": " "}, "no reason"),
        ({"reason": "two\nlines"}, "reason of 9 characters"),
        ({"into": "reference"}, "into = 'reference'"),
        ({"variant": ""}, "no name of a variant"),
        ({"variant": "by hand"}, "variant 'by hand'"),
    ],
)
def test_import_edits__invalid_options(
    lake: ql.Lake, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    ql.export_for_editing(lake, tmp_path / "out")
    with pytest.raises(RunError, match=message):
        edits(lake, tmp_path / "out", **options)


def test_import_edits__a_manifest_is_needed(lake: ql.Lake, tmp_path: Path) -> None:
    ql.export_for_editing(lake, tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    content = json.loads(path.read_text())
    assert KEYS[0] in {exam["exam"] for exam in content["exams"]}
    for change in (
        {"format": 2},
        {"exams": [{**content["exams"][0], "files": {"bone": "../other.nrrd"}}]},
        {"program": "other"},
        {"more": 1},
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match="unreadable manifest"):
            read_manifest(tmp_path / "out")
    path.unlink()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        edits(lake, tmp_path / "out")


def test_import_edits__a_pseudonymised_lake_does_not_name_the_editor(
    lake: ql.Lake, tmp_path: Path
) -> None:
    ql.export_for_editing(lake, tmp_path / "out")
    edit_slicer(tmp_path / f"out/{KEYS[0]}.seg.nrrd", 0, 1, 3)
    before = free_texts(lake)
    result = edits(lake, tmp_path / "out", by="ZQ", reason="notch")
    assert free_texts(result.lake) > before, "doctor --privacy finds the texts"
    key = tmp_path / "key.json"
    shared = result.lake.derive(str(tmp_path / "s.lake"), None, ["dess"], pseudonymise=key)
    assert "dess/bone__edited" in shared.variables()
    texts = shared.runs().to_json() + json.dumps([r for r in read_all_runs(shared)])
    assert "ZQ" not in texts
    assert "notch" not in texts


def free_texts(lake: ql.Lake) -> int:
    table = lake.identifiers()
    return int(
        table[(table["place"] == "status/runs") & (table["kind"] == "free text")]["count"].sum()
    )


def read_all_runs(lake: ql.Lake) -> list[dict[str, Any]]:
    from qmri_lake.store.runs import read_runs

    return list(read_runs(lake.root).values())


def test_commands__print_the_agreement(
    lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["export-for-editing", lake.url, out, "--program", "itksnap"]) == 0
    assert "exported 2 exams" in capsys.readouterr().out
    for kind in ("bone", "cartilage"):
        path = tmp_path / f"out/{KEYS[0]}_{kind}.nii.gz"
        image = nibabel.load(path)
        labels = np.asarray(image.dataobj).copy()
        labels[labels == 2] = 1
        nibabel.save(nibabel.Nifti1Image(labels, image.affine, image.header), path)
    (tmp_path / f"out/{KEYS[1]}_bone.nii.gz").write_bytes(b"")
    command = ["import-edits", out, "--lake", lake.url, "--by", "reader 2", "--reason", "leaks"]
    csv = tmp_path / "agreement.csv"
    assert main([*command, "--agreement", str(csv)]) == 1
    printed = capsys.readouterr().out
    assert "imported edited masks of 1 exam to dess/bone__edited and dess/cartilage__edited; " in (
        printed
    )
    assert "agreement of the masks before and after editing" in printed
    assert "unreadable_file" in printed
    assert csv.read_text().count(KEYS[0]) == 6
    assert SHAPE == (6, 9, 8)
