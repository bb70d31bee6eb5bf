"""Exports: choice of variables, resumption by digests, problems, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qmri_lake as ql
from qmri_lake.cli import main
from qmri_lake.errors import InputError, NotFoundError, RunError
from qmri_lake.execution.events import ExamDone, RunStarted
from qmri_lake.exporting.formats import FORMATS
from qmri_lake.exporting.manifest import manifest_name
from qmri_lake.exporting.variable_choice import choose_variables
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from tests.exporting.lakes import KEYS, small_lake
from tests.fixtures import array_lake


def test_export__resumes_by_digest_and_run_not_by_existence(tmp_path: Path) -> None:
    lake = small_lake(tmp_path / "oai.lake")
    out = tmp_path / "out"

    def again() -> tuple[int, int]:
        result = ql.export(lake, out, format="nifti", variables=["msme/t2", "dess/image"])
        assert result.problems == ()
        return result.written, result.unchanged

    assert again() == (3, 0)
    assert again() == (0, 3)
    first = out / KEYS[0] / f"{KEYS[0]}_msme_t2.nii.gz"
    good = first.read_bytes()
    first.write_bytes(good[:-1] + b"x")  # same size, other content
    assert again() == (1, 2)
    (out / KEYS[1] / f"{KEYS[1]}_dess_image.json").unlink()
    assert again() == (1, 2)
    manifest = out / manifest_name("nifti")
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed while it was written
    assert again() == (2, 1)
    assert all(json.loads(line) for line in manifest.read_text().splitlines())

    def change(session):
        transaction = Transaction(runs={9: {"step": "t2", "parameters": {}, "version": "2"}})
        transaction.set_state("t2", 1, "done", 9)
        transaction(session)

    commit(ql.open_lake(lake.url).repo, change, "Run t2 again")
    lake.refresh()
    assert again() == (1, 2)
    about = json.loads((out / KEYS[1] / f"{KEYS[1]}_msme_t2.json").read_text())
    assert about["lineage"]["run"] == 9


def test_export__of_another_lake_with_the_same_name_keeps_nothing(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        lake = array_lake(tmp_path / folder / "x.lake", 2)
        lake.run("t2", within="all")
        result = ql.export(lake, tmp_path / "out", format="nifti", variables="msme/t2")
        assert (result.written, result.unchanged) == (2, 0)
    lake.run("t2", within="all")  # computes nothing
    assert ql.export(lake, tmp_path / "out", format="nifti", variables="msme/t2").unchanged == 2


def test_export__removes_files_of_results_that_are_gone(tmp_path: Path) -> None:
    lake = small_lake(tmp_path / "oai.lake")
    out = tmp_path / "out"
    ql.export(lake, out, format="nifti", variables=["msme/t2", "dess/image"])
    gone = out / KEYS[0] / f"{KEYS[0]}_msme_t2.nii.gz"
    assert gone.exists()

    def change(session):
        transaction = Transaction()
        transaction.set_state("t2", 0, "failed", 3)
        transaction(session)

    commit(ql.open_lake(lake.url).repo, change, "Fail")
    lake.refresh()
    result = ql.export(lake, out, format="nifti", variables=["msme/t2", "dess/image"])
    assert result.written == 1
    assert not gone.exists()
    assert (KEYS[0], "msme/t2", "t2 is failed") in set(
        result.left_out.itertuples(index=False, name=None)
    )


def test_export__refuses_a_folder_of_others_and_another_request(
    export_lake: ql.Lake, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("x")
    with pytest.raises(InputError, match="a folder with other files"):
        ql.export(export_lake, tmp_path / "mine", format="nifti", variables="dess/image")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.docx"]
    one = export_lake.cohort("kl == 1")
    ql.export(one, tmp_path / "a", format="nifti", variables="dess/image")
    with pytest.raises(RunError, match="an export with other variables"):
        ql.export(one, tmp_path / "a", format="nifti", variables="msme/t2")
    both = ql.export(export_lake, tmp_path / "a", format="nifti", variables="dess/image")
    assert (both.written, both.unchanged) == (2, 1)
    assert ql.export(one, tmp_path / "a", format="nifti", variables="dess/image").other_exams == 2


def test_export__names_what_is_unknown_or_does_not_fit(
    export_lake: ql.Lake, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"no format 'nifty'.*Did you mean 'nifti'"):
        ql.export(export_lake, tmp_path / "a", format="nifty")
    with pytest.raises(NotFoundError, match=r"no variable 'msme/t3'.*Did you mean 'msme/t2"):
        ql.export(export_lake, tmp_path / "a", format="nifti", variables="msme/t3")
    with pytest.raises(InputError, match="clinical/kl is no volume"):
        ql.export(export_lake, tmp_path / "a", format="nifti", variables="clinical/kl")
    with pytest.raises(InputError, match="group clinical has no variable for nifti"):
        ql.export(export_lake, tmp_path / "a", format="nifti", variables="clinical")
    with pytest.raises(InputError, match="no exam"):
        ql.export(export_lake.cohort("kl == 4"), tmp_path / "a", format="nifti")
    assert not (tmp_path / "a").exists()


def test_export__values_that_identify_need_their_name(export_lake: ql.Lake, tmp_path: Path) -> None:
    lake = export_lake
    plain = choose_variables(lake, FORMATS["netcdf"], None)
    assert {"msme/t2", "dess/image", "sphere/map"} <= set(plain)
    assert not [v for v in plain if v.startswith("clinical") or "uid" in v]
    one = export_lake.cohort("kl == 3")
    group = ql.export(one, tmp_path / "b", format="netcdf", variables="msme")
    assert "msme/series_uid" not in group.variables
    named = ql.export(one, tmp_path / "c", format="netcdf", variables="msme/series_uid")
    assert named.variables == ("msme/series_uid",)


def test_export__a_damaged_exam_is_a_problem_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = small_lake(tmp_path / "oai.lake")

    def change(session):
        transaction = Transaction()
        affine = lake.root["dess/affine"][1].copy()
        affine[:, 1] = 0
        transaction.set_small("dess/affine", 1, affine)
        transaction(session)

    commit(ql.open_lake(lake.url).repo, change, "Damage")
    lake.refresh()
    events: list[object] = []
    result = ql.export(
        lake, tmp_path / "out", format="nifti", variables="dess/image", listeners=[events.append]
    )
    assert result.written == 2
    (problem,) = result.problems
    assert problem.exam == KEYS[1]
    assert "spacing of zero" in problem.found
    assert isinstance(events[0], RunStarted)
    assert [e.state for e in events[1:] if isinstance(e, ExamDone)].count("failed") == 1
    summary = json.loads((tmp_path / "out" / "summary.nifti.json").read_text())
    assert summary["exams"] == 2
    assert summary["problems"][0]["exam"] == KEYS[1]


def test_export__on_workers_gives_the_same_files(
    export_lake: ql.Lake, tmp_path: Path, workers: object
) -> None:
    here = ql.export(export_lake, tmp_path / "a", format="nrrd", variables="msme/t2")
    there = ql.export(
        export_lake, tmp_path / "b", format="nrrd", variables="msme/t2", cluster=workers
    )
    assert here.files == there.files
    assert there.written == 2


def test_command__exports_a_cohort_and_prints_what_is_lost(
    export_lake: ql.Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(out), "--lake", export_lake.url, "--format", "nifti"]
    words += ["--variables", "dess/cartilage,msme/t2", "--cohort", "kl >= 1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "nifti: 2 exams written (8 files" in printed
    assert "lost in 2 exams: voxels of dess/cartilage" in printed
    assert "segment_cartilage is pending" in printed
    assert main(words) == 0
    assert "0 exams written, 2 already there" in capsys.readouterr().out
    assert main([*words[:5], "xml"]) == 2
    assert "no format 'xml'" in capsys.readouterr().err


def test_formats__the_help_and_the_table_name_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)
    page = (Path(__file__).parents[2] / "docs/how_to/export.md").read_text(encoding="utf-8")
    for form in FORMATS.values():
        assert f"| `{form.name}` |" in page
