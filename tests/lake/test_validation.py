"""All faults of a lake are listed with their locations; a valid lake has none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmri_lake.cli import main
from qmri_lake.errors import RunError
from qmri_lake.lake import Lake, open_lake
from qmri_lake.lake.deep_validation import Faults
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import declare
from tests.fixtures import array_lake


@pytest.fixture(scope="module")
def valid_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a lake without faults, which tests copy."""
    folder = tmp_path_factory.mktemp("valid") / "a.lake"
    lake = array_lake(folder)
    lake.run("t2")

    def add_clinical(session: Any) -> None:
        declare(open_root(session.store, "r+"), REGISTRY.group("clinical"))

    commit(lake.repo, add_clinical, "Declare clinical columns")
    return folder


@pytest.fixture
def lake(valid_lake: Path, tmp_path: Path) -> Lake:
    return open_lake(str(shutil.copytree(valid_lake, tmp_path / "a.lake")))


def corrupt(lake: Lake, change: Callable[[Any], None]) -> Lake:
    """Commit direct writes, past every check."""
    commit(lake.repo, lambda session: change(open_root(session.store, "r+")), "Corrupt")
    return lake.refresh()


def put(path: str, index: Any, value: Any) -> Callable[[Any], None]:
    def change(root: Any) -> None:
        root[path][index] = value

    return change


KEYS = [
    "9000001-000m-right",
    "9000001-000m-left",
    "9000001-024m-right",
    "9000001-024m-left",
    "9000002-000m-right",
    "9000002-000m-left",
]

FAULTS: list[tuple[Callable[[Any], None], str]] = [
    (
        put("exam", 1, "9000001-000m-middle"),
        f"exam 9000001-000m-middle: key does not match its coordinates (expected {KEYS[1]})",
    ),
    (put("knee", 1, "middle"), "coordinate knee: 'middle' (expected left or right)"),
    (
        put("status/t2/state", 2, 77),
        "status/t2: state 77 (expected one of pending, done, failed, skipped, flagged)",
    ),
    (put("status/t2/run", 3, 99), "status/t2: run 99 without a record (expected a record in runs)"),
    (
        put("msme/echo_time", (0, 0), -5.0),
        "msme/echo_time: 1 value outside the range, such as -5.0 (expected (0, 1000) ms)",
    ),
    (
        put("clinical/kl", 0, 7.0),
        "clinical/kl: 1 value outside the range, such as 7.0 (expected (0, 4))",
    ),
    (
        put("clinical/sex", 0, 9),
        "clinical/sex: value 9 without a name (expected 1 male, 2 female)",
    ),
    (
        put("msme/extent", 4, [6, 12, 10]),
        f"msme/extent of {KEYS[4]}: [6, 12, 10] (expected 1 to [5, 12, 10])",
    ),
    (
        put("msme/extent", 5, [-1, -1, -1]),
        f"msme/extent of {KEYS[5]}: [-1, -1, -1] (expected 1 to [5, 12, 10])",
    ),
    (
        put("msme/affine", 2, np.zeros((4, 4))),
        f"msme/affine of {KEYS[2]}: voxel volume is 0 or NaN (expected spacing > 0)",
    ),
    (
        put("msme/affine", 3, np.full((4, 4), np.nan)),
        f"msme/affine of {KEYS[3]}: voxel volume is 0 or NaN (expected spacing > 0)",
    ),
    (
        lambda root: root["msme/series_uid"].resize((4,)),
        "msme/series_uid: 4 exams (expected 6)",
    ),
]


@pytest.mark.slow
def test_validate__sound_lake(lake: Lake) -> None:
    assert lake.validate() == []
    assert lake.validate(deep=True) == []


@pytest.mark.slow
@pytest.mark.parametrize(("change", "fault"), FAULTS, ids=[fault[:30] for _, fault in FAULTS])
def test_validate__one_fault(lake: Lake, change: Callable[[Any], None], fault: str) -> None:
    found = corrupt(lake, change).validate()
    assert fault in found
    # A wrong word in `knee` is a wrong key too; nothing else shows up in a second place.
    assert len(found) == (2 if "knee" in fault else 1)


def test_validate__lists_all_faults(lake: Lake, judge: Any) -> None:
    def everything(root: Any) -> None:
        for change, _ in FAULTS:
            change(root)

    found = corrupt(lake, everything).validate()
    missed = [fault for _, fault in FAULTS[1:] if fault not in found]
    judge(
        "validate lists all faults",
        required=f"{len(FAULTS) - 1} of {len(FAULTS) - 1} kinds of faults in one call",
        measured=f"{len(FAULTS) - 1 - len(missed)}, missed: {missed or 'none'}",
        passed=not missed,
    )


def test_validate__doubled_key(lake: Lake) -> None:
    def double(root: Any) -> None:
        for name in ("exam", "patient", "timepoint", "knee"):
            root[name][1] = root[name][0]

    assert corrupt(lake, double).validate() == [
        f"exam {KEYS[0]}: duplicate key (expected unique keys)"
    ]


def test_validate__lost_and_empty_images(lake: Lake, tmp_path: Path) -> None:
    corrupt(lake, put("msme/image", 2, np.nan))
    before = set((tmp_path / "a.lake" / "chunks").iterdir())
    noise = np.random.default_rng(0).random(lake.root["msme/image"].shape[1:])
    corrupt(lake, put("msme/image", 3, noise))
    (lost,) = set((tmp_path / "a.lake" / "chunks").iterdir()) - before
    lost.unlink()
    found = open_lake(lake.url).validate(deep=True)
    assert (
        found[0]
        == f"msme/image of {KEYS[2]}: all values are NaN (expected an image: its state is done)"
    )
    assert found[1].startswith(f"msme/image of {KEYS[3]}: unreadable chunk: ")
    assert "\n" not in found[1]
    assert len(found) == 2


def test_validate__deep(lake: Lake) -> None:
    corrupt(lake, put("msme/cartilage", (1, 0, 3, 3), 200))
    corrupt(lake, put("msme/t2", (4, 0, 3, 3), -1.0))
    assert lake.validate() == []
    assert lake.validate(deep=True) == [
        f"msme/cartilage of {KEYS[1]}: value 200 without a name (expected "
        + REGISTRY["msme/cartilage"].expectation
        + ")",
        f"msme/t2 of {KEYS[4]}: 1 value outside the range, such as -1.0 (expected "
        + REGISTRY["msme/t2"].expectation
        + ")",
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qmri_lake"


def test_sample__reads_only_its_exams_and_states_the_coverage(lake: Lake, cache: Path) -> None:
    corrupt(lake, put("msme/t2", (4, 0, 3, 3), -1.0))
    seen: list[tuple[int, int]] = []
    for seed in range(20):
        found = lake.validate(sample=3, seed=seed, progress=lambda *at: seen.append(at))
        chosen = np.random.default_rng(seed).permutation(6)[:3]
        assert len(found) == found.faulty == int(4 in chosen)
        assert (found.checked, found.exams) == (3, 6)
        # The limit solves (1 - p)^3 = 0.05, or P(at most 1 of 3) = 0.05.
        limit = "63 %" if not found else "86 %"
        assert found.coverage == (
            f"checked the volumes of 3 of 6 exams (seed {seed}): {found.faulty} with faults; at "
            f"95 % confidence, at most {limit} of all exams are faulty"
        )
    assert seen[:4] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(lake.validate(sample=0.5)) == len(lake.validate(sample=3))
    assert lake.validate(deep=True).coverage == "checked the volumes of 6 of 6 exams: 1 with faults"


def test_sample__limit_by_the_rule_of_three() -> None:
    coverage = Faults([], 47_078, 500, 0, 0).coverage
    assert coverage == (
        "checked the volumes of 500 of 47,078 exams (seed 0): 0 with faults; at 95 % confidence, "
        "at most 0.6 % of all exams are faulty"
    )


@pytest.mark.parametrize("sample", [0, -1, 2.5, float("nan")])
def test_sample__refuses_impossible_sizes(lake: Lake, sample: float) -> None:
    with pytest.raises(RunError, match="a number of exams, such as 500, or a share below 1"):
        lake.validate(sample=sample)


def test_resume__continues_after_an_interruption(lake: Lake, cache: Path) -> None:
    corrupt(lake, put("msme/t2", (1, 0, 3, 3), -1.0))
    files = {path: path.stat().st_mtime_ns for path in Path(lake.url).rglob("*")}

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lake.validate(deep=True, progress=stop)
    rest: list[tuple[int, int]] = []
    found = lake.validate(deep=True, resume=True, progress=lambda *at: rest.append(at))
    assert rest == [(4, 6), (5, 6), (6, 6)]
    assert (found.checked, found.faulty, len(found)) == (6, 1, 1)
    assert found == lake.validate(deep=True)
    assert files == {path: path.stat().st_mtime_ns for path in Path(lake.url).rglob("*")}
    # Another commit has its own state.
    corrupt(lake, put("msme/t2", (1, 0, 3, 3), 1.0))
    assert lake.validate(deep=True, resume=True) == []
    assert list(cache.iterdir()) == []  # complete validations keep no state


def test_resume__needs_no_writable_cache(lake: Lake, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert lake.validate(sample=2) == []


def test_resume__larger_sample_contains_the_smaller_one(lake: Lake, cache: Path) -> None:
    lake.validate(sample=2, seed=7)
    seen: list[int] = []
    found = lake.validate(sample=5, seed=7, resume=True, progress=lambda *at: seen.append(at[0]))
    assert seen == [2, 3, 4, 5]
    assert found.checked == 5
    (state,) = cache.iterdir()
    state.write_text("{")
    with pytest.raises(RunError, match="Validate without resume to start again"):
        lake.validate(sample=5, seed=7, resume=True)


def test_command__sample_and_resume(
    lake: Lake, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", lake.url, "--sample", "4", "--seed", "3"]) == 0
    assert main(["validate", lake.url, "--sample", "0.5", "--seed", "3", "--resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = (line for line in lines if line.startswith("checked"))
    assert first.startswith("checked the volumes of 4 of 6 exams (seed 3): 0 with faults; at 95 %")
    assert second.startswith("checked the volumes of 3 of 6 exams (seed 3)")
