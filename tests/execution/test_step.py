"""A user's own steps: done, skipped, failed, flagged; retried, stale, waiting."""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import NotFoundError, RunError, VariableError
from qmri_lake.execution.declaration import _OPTIONS_OF_RUN
from qmri_lake.execution.exam_io import read_exam
from qmri_lake.execution.step import Step, find_step, register_step, temporary_steps
from qmri_lake.lake import Lake
from qmri_lake.schema.builtin import REGISTRY
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction
from tests.fixtures import array_lake, msme_signal

VOLUME = ("slice", "row", "column")
TROUBLE = {1: "skip", 2: "fail", 3: "flag"}
"""What becomes of an exam, by its row, while `troubled` is True."""


def _first_echo(msme: xr.Dataset, *, gain: float = 1.0, troubled: bool = False) -> Any:
    image = msme["image"]
    row = int(
        np.flatnonzero(
            [
                abs(image.values[0] - msme_signal(r, image.shape[1:])[0][0]).max() < 1
                for r in range(6)
            ]
        )[0]
    )
    trouble = TROUBLE.get(row) if troubled else None
    if trouble == "skip":
        raise ql.Skip("nothing to do")
    if trouble == "fail":
        raise ZeroDivisionError("of\n course")
    first = image.isel(echo=0) * gain
    made = xr.Dataset(
        {
            "test_first_echo": first.astype("float32"),
            "test_mean": first.mean(),
            "test_count": first.size,
            "test_name": f"exam {row}",
            "test_echoes": image.mean(VOLUME),
        }
    )
    return made.assign_attrs(flag="too bright") if trouble == "flag" else made


def _double(msme: xr.Dataset) -> Any:
    return {"test_double": 2 * msme["test_mean"].values}


def _thirds(each: list[xr.Dataset], *, bad: int | None = None) -> list[Any]:
    BLOCKS.append(len(each))
    found: list[Any] = []
    for msme in each:
        value = float(msme["test_mean"])
        if msme["exam"].item() == bad:
            raise ValueError("out of range")
        if np.isnan(value):
            found.append(ql.Skip("no mean"))
            continue
        made = xr.Dataset({"test_third": value / 3})
        found.append(made.assign_attrs(flag="large") if value > LARGE else made)
    return found


def _third(msme: xr.Dataset, *, bad: Any = None) -> Any:
    (found,) = _thirds([msme], bad=bad)
    if isinstance(found, ql.Skip):
        raise found
    return found


BLOCKS: list[int] = []
LARGE = 1e9

# Steps are known to a whole process. These are known to the tests of this module only.
with temporary_steps():
    first_echo = ql.step(
        name="first_echo",
        reads={"msme": ["image", "echo_time"]},
        writes=[
            ql.Variable("msme", "test_first_echo", VOLUME, "float32", "Signal of the first echo"),
            ql.Variable("msme", "test_mean", (), "float64", "Mean of the first echo"),
            ql.Variable("msme", "test_count", (), "int32", "Voxels", fill_meaning="not counted"),
            ql.Variable("msme", "test_name", (), "string", "A word", fill_meaning="no word"),
            ql.Variable("msme", "test_echoes", ("echo",), "float32", "Mean of each echo"),
        ],
    )(_first_echo)
    double = ql.step(
        name="double",
        reads={"msme": ["test_mean"]},
        writes=[ql.Variable("msme", "test_double", (), "float64", "Twice the mean")],
    )(_double)
    third = ql.step(
        name="third",
        reads={"msme": ["test_mean"]},
        writes=[ql.Variable("msme", "test_third", (), "float64", "A third of the mean")],
        batch_function=_thirds,
    )(_third)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with temporary_steps():
        for own in (first_echo, double, third):
            register_step(own)
        yield


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return array_lake(tmp_path / "a.lake")


def test_step__writes_bulk_and_small_values(lake: Lake) -> None:
    assert lake.run(first_echo, gain=2.0).counts["done"] == 6
    group = lake.root["msme"]
    for row in range(6):
        extent = (5 - row % 2, 12, 10)
        signal = msme_signal(row, extent)[0]
        np.testing.assert_array_equal(group["test_first_echo"][row, : extent[0]], 2 * signal[0])
        assert np.isnan(group["test_first_echo"][row, extent[0] :]).all()
        assert group["test_mean"][row] == pytest.approx(2 * signal[0].mean(), rel=1e-5)
        assert group["test_count"][row] == np.prod(extent)
        assert group["test_name"][row] == f"exam {row}"
        np.testing.assert_allclose(group["test_echoes"][row], signal.mean((1, 2, 3)), rtol=1e-5)
    ds = lake.load("msme", exam=lake.exams["exam"][1])
    assert ds["test_count"].compute().item() == 480


def test_step__done_skipped_failed_flagged(lake: Lake) -> None:
    result = lake.run(first_echo, troubled=True)
    assert result.counts == {"done": 3, "failed": 1, "skipped": 1, "flagged": 1}
    assert str(result).startswith("first_echo: 3 done, 1 failed, 1 skipped, 1 flagged (")
    failures = lake.failures("first_echo").set_index("exam")
    names = lake.exams["exam"]
    assert failures.loc[names[1], ["state", "message"]].tolist() == ["skipped", "nothing to do"]
    assert failures.loc[names[2], ["state", "message"]].tolist() == [
        "failed",
        "ZeroDivisionError: of course",
    ]
    assert failures.loc[names[3], ["state", "message"]].tolist() == ["flagged", "too bright"]
    assert len(failures) == 3
    # A flagged product can be read, a failed or skipped one is fill.
    group = lake.root["msme"]
    assert np.isfinite(group["test_mean"][:]).tolist() == [True, False, False, True, True, True]
    assert group["test_count"][1] == -1
    assert len(lake.cohort().require("msme/test_mean")) == 4
    with pytest.raises(NotFoundError, match="no status of step 'x'"):
        lake.failures("x")


@pytest.mark.slow
def test_step__exams_that_are_computed_together(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmri_lake.execution.run.EXAMS_PER_BATCH", 4)
    lake.run(first_echo)
    means = lake.root["msme/test_mean"][:]
    change = Transaction(runs={9: {"step": "import", "parameters": {}, "version": "1"}})
    change.set_small("msme/test_mean", 1, np.nan)
    change.set_state("first_echo", 1, "done", 9)
    commit(lake.repo, change, "Forget one")
    monkeypatch.setitem(globals(), "LARGE", np.sort(means)[-2])
    planned = lake.refresh().plan(third)
    assert "768 B projected for 16 exams" in repr(planned)
    assert planned.projected_bytes == 16 * 3 * (8 + 8)  # three copies of what is read and written
    BLOCKS.clear()
    seen: list[Any] = []
    result = lake.refresh().run(third, listeners=[seen.append])
    assert BLOCKS == [4, 2]
    assert result.counts == {"done": 4, "failed": 0, "skipped": 1, "flagged": 1}
    assert seen[0].total == 6
    found = lake.root["msme/test_third"][:]
    assert np.isnan(found[1])
    np.testing.assert_allclose(np.delete(found, 1), np.delete(means, 1) / 3)
    told = lake.failures("third").set_index("exam")["message"]
    assert told.to_dict() == {
        lake.exams["exam"][1]: "no mean",
        lake.exams["exam"][int(means.argmax())]: "large",
    }
    # One that fails is found by itself, and fails no other.
    BLOCKS.clear()
    again = lake.run(third, bad=lake.exams["exam"][2])
    assert (again.counts["done"], again.failed) == (3, 1)
    assert BLOCKS == [4, 1, 1, 1, 1, 2]
    assert lake.failures("third")["message"].tolist().count("ValueError: out of range") == 1


def test_step__voxels_are_not_computed_together() -> None:
    with pytest.raises(VariableError, match="batch_function writes msme/test_voxels, an array"):
        ql.step(
            reads={"msme": ["image"]},
            batch_function=_thirds,
            writes=[ql.Variable("msme", "test_voxels", VOLUME, "float32", "Voxels")],
        )


@pytest.mark.slow
def test_run__retry_failed(lake: Lake) -> None:
    lake.run(first_echo, troubled=True)
    again = lake.run(first_echo, troubled=True)
    assert (again.up_to_date, again.failed_before, again.counts) == (5, 1, {})
    assert "1 failed before (retry_failed=True tries again)" in str(again)
    retried = lake.run(first_echo, troubled=True, retry_failed=True)
    assert retried.counts["failed"] == 1
    assert retried.up_to_date == 5
    # Other parameters are another try for all but what they were made with.
    healed = lake.run(first_echo)
    assert healed.counts == {"done": 6, "failed": 0, "skipped": 0, "flagged": 0}
    assert lake.failures().empty


@pytest.mark.slow
def test_plan__stale_by_parameters(lake: Lake) -> None:
    lake.run(first_echo)
    assert len(lake.plan(first_echo).rows) == 0
    plan = lake.plan(first_echo, gain=3.0)
    assert (len(plan.rows), plan.stale, plan.up_to_date) == (6, 6, 0)
    lake.run(first_echo, "knee == 'left'", gain=3.0)
    assert lake.plan(first_echo, gain=3.0).rows.tolist() == [0, 2, 4]
    assert lake.plan(first_echo).rows.tolist() == [1, 3, 5]


@pytest.mark.slow
def test_plan__stale_by_version(lake: Lake) -> None:
    lake.run(first_echo)
    newer = Step(first_echo.name, first_echo.function, first_echo.reads, first_echo.writes, "2")
    assert lake.plan(newer).stale == 6
    lake.run(newer)
    assert lake.plan(newer).up_to_date == 6
    assert lake.runs()["code"].iloc[-1].startswith("first_echo 2, qmri_lake ")


@pytest.mark.slow
def test_plan__stale_by_input(lake: Lake) -> None:
    lake.run(first_echo)
    lake.run(double)
    assert lake.plan(double).up_to_date == 6
    lake.run(first_echo, "knee == 'left'", gain=5.0)
    plan = lake.plan(double)
    assert plan.rows.tolist() == [1, 3, 5]
    assert plan.stale == 3
    lake.run(double)
    group = lake.root["msme"]
    np.testing.assert_array_equal(group["test_double"][:], 2 * group["test_mean"][:])


@pytest.mark.slow
def test_plan__skipped_and_failed_by_input(lake: Lake) -> None:
    def picky(msme: xr.Dataset) -> Any:
        if msme["test_mean"] > 1000:
            raise ql.Skip("too bright")
        raise ValueError("too dark")

    step = Step("double", picky, {"msme": ["test_mean"]}, double.writes, "1")
    for gain, state in [(100.0, "skipped"), (0.1, "failed"), (100.0, "skipped")]:
        lake.run(first_echo, gain=gain)
        assert lake.run(step).counts[state] == 6
        again = lake.plan(step)
        assert (again.up_to_date, again.failed_before) == ((6, 0) if gain > 1 else (0, 6))


def test_plan__waiting_for_an_input(lake: Lake) -> None:
    assert lake.plan(double).waiting == {"first_echo": 6}
    assert str(lake.run(double)).startswith("double: 6 waiting for first_echo (")
    lake.run(first_echo, troubled=True)  # one skipped, one failed
    plan = lake.plan(double)
    assert plan.waiting == {"first_echo": 2}
    assert len(plan.rows) == 4
    lines = repr(plan).splitlines()
    assert lines[0] == f"<Plan of run {plan.run}: double>"
    assert [line.split() for line in lines[1:4]] == [
        ["to", "compute", "4"],
        ["up", "to", "date", "0"],
        ["waiting", "2", "for", "first_echo"],
    ]


def test_plan__imported_product_stays(lake: Lake) -> None:
    lake.run(first_echo)
    change = Transaction(runs={9: {"step": "import", "parameters": {}, "version": "1"}})
    change.set_small("msme/test_mean", 0, 42.0)
    change.set_state("first_echo", 0, "done", 9)
    commit(lake.repo, change, "Import")
    assert lake.refresh().plan(first_echo, gain=7.0).rows.tolist() == [1, 2, 3, 4, 5]
    assert lake.plan(double).rows.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow
def test_plan__says_stale_and_failed(lake: Lake) -> None:
    lake.run(first_echo, troubled=True)
    text = repr(lake.plan(first_echo, troubled=True))
    assert "failed before       1  (retry_failed=True tries again)" in text
    lake.run("t2")
    text = repr(lake.plan("t2", r2_min=0.5))
    assert "to compute          6  (6 stale)" in text
    assert "kiB projected for one exam" in text


def test_run__unknown_names(lake: Lake) -> None:
    snapshot = lake.snapshot
    with pytest.raises(RunError, match=r"step t2: parameter 'r3' \(expected one of within"):
        lake.run("t2", r3=1)
    with pytest.raises(NotFoundError, match=r"no step 'tt2' \(expected one of .*t2"):
        lake.run("tt2")
    with pytest.raises(RunError, match="variant 'a b'"):
        lake.run("t2", variant="a b")
    with pytest.raises(RunError, match="no value for parameter 'must'"):
        lake.run(Step("needy", lambda msme, *, must: {}, {"msme": ["image"]}, double.writes, "1"))
    assert lake.refresh().snapshot == snapshot


@pytest.mark.slow
def test_run__old_values_go(lake: Lake) -> None:
    """What a later run leaves out, skips or fails at is not what an earlier one wrote."""

    def some(msme: xr.Dataset, *, mode: str = "all") -> Any:
        if mode == "skip":
            raise ql.Skip("nothing")
        if mode == "fail":
            raise ValueError("no")
        return {v.name: known[v.name] for v in first_echo.writes if mode in ("all", v.name)}

    known = {
        "test_first_echo": np.ones((4, 12, 10), np.float32),
        "test_mean": 1.0,
        "test_count": 1,
        "test_name": "word",
        "test_echoes": np.ones(7, np.float32),
    }
    step = Step("first_echo", some, {"msme": ["image"]}, first_echo.writes, "1")
    odd = lake.cohort("knee == 'left'")
    for mode, left in [("skip", 0), ("test_count", 1), ("fail", 0), ("test_first_echo", 1)]:
        for variant in ("", "b"):
            lake.run(step, odd, variant=variant)
            lake.run(step, odd, variant=variant, mode=mode)
            kept = 0
            for name in known:
                array = lake.root["msme"][f"{name}__{variant}" if variant else name]
                values = array[:]
                empty = np.isnan(values) if values.dtype.kind == "f" else values == array.fill_value
                kept += not empty.all()
            assert kept == left, (mode, variant)


@pytest.mark.slow
def test_plan__parameters_told_apart(lake: Lake) -> None:
    def made(msme: xr.Dataset, *, value: Any) -> Any:
        return {"test_double": 1.0}

    step = Step("double", made, {"msme": ["image"]}, double.writes, "1")
    weights, other = np.zeros(2000), np.zeros(2000)
    other[1000] = 5
    values = [
        weights,
        other,
        other.astype("float32"),
        other.reshape(2, -1),
        np.inf,
        "inf",
        "nan",
        np.nan,
        [1, 2],
        {"a": np.inf},
        np.float32(0.5),
        1,
        None,
    ]
    for value in values:
        assert lake.run(step, "timepoint == 0 and knee == 'left'", value=value).counts["done"] == 2
        again = lake.plan(step, "timepoint == 0 and knee == 'left'", value=copy.deepcopy(value))
        assert again.up_to_date == 2
    assert len(lake.runs()["parameters"].map(str).unique()) == len(values) + 1
    for value in [object(), pd.DataFrame(), {1, 2}, {1: 2}, np.array([None]), 1j]:
        with pytest.raises(RunError, match=r"step double: .* in parameter 'value' \(expected"):
            lake.plan(step, value=value)


def test_run__more_memory_than_there_is(lake: Lake) -> None:
    hungry = Step("first_echo", first_echo.function, first_echo.reads, first_echo.writes, "1", 1e12)
    with pytest.raises(RunError, match=r"for one exam \(expected at most the .* GiB of a worker"):
        lake.run(hungry)
    assert "first_echo" not in lake.refresh().status().index  # refused before anything was written


@pytest.mark.slow
def test_run__product_that_does_not_fit(lake: Lake) -> None:
    def answer(value: Any) -> Step:
        return Step("double", lambda msme: value, {"msme": ["image"]}, double.writes, "1")

    for value, said in [
        ({"other": 1.0}, r"variable 'other' \(expected one of test_double"),
        ({"test_double": np.zeros(3)}, r"1 dimensions, shape \(3,\)"),
        ({"test_double": np.array("word")}, r"dtype <U4 \(expected float64"),
    ]:
        lake.run(answer(value), retry_failed=True)
        failures = lake.failures("double")
        assert len(failures) == 6
        assert failures["message"].str.contains(said).all(), failures["message"][0]


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Mute(), "Mute: Mute"),
        (ValueError("\udcff"), r"ValueError: \udcff"),
        (ValueError("x" * 10**6), f"ValueError: {'x' * 1000} ..."),
        (ql.Skip("a\nb \udcff"), r"a b \udcff"),
    ],
)
def test_run__odd_exception(lake: Lake, error: Exception, said: str) -> None:
    def odd(msme: xr.Dataset) -> Any:
        raise error

    lake.run(Step("double", odd, {"msme": ["image"]}, double.writes, "1"))
    assert lake.failures("double")["message"].tolist() == [said] * 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("product", "said"),
    [
        (
            {"test_first_echo": np.ones((4, 12, 9), "f4")},
            r"shape \(4, 12, 9\) \(expected 4 slice, 12 row, 10 column",
        ),
        ({"test_first_echo": np.ones((4, 10, 12), "f4")}, r"shape \(4, 10, 12\)"),
        ({"test_first_echo": np.ones((5, 12, 10), "f4")}, r"shape \(5, 12, 10\)"),
        ({"test_echoes": np.ones(6, "f4")}, r"shape \(6,\) \(expected 7 echo"),
        (
            {"test_count": np.int64(2**40 + 3)},
            r"value 1099511627779 \(expected .* the range of int32",
        ),
        ({"test_echoes": np.full(7, 1e300)}, r"value 1e.300 \(expected .* the range of float32"),
        ({"test_name": None}, r"None \(expected valid Unicode text"),
        ({"test_name": "\udcff"}, "expected valid Unicode text"),
        (None, r"the result is of type NoneType \(expected a mapping"),
    ],
)
def test_run__result_that_would_be_stored_wrongly(lake: Lake, product: Any, said: str) -> None:
    step = Step("first_echo", lambda msme: product, {"msme": ["image"]}, first_echo.writes, "1")
    lake.run(step, f"exam == {lake.exams['exam'][1]!r}")
    (message,) = lake.failures("first_echo")["message"]
    assert re.search(said, message), message


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        {"within": "al"},
        {"within": np.zeros(2)},
        {"bounds": "abc"},
        {"bounds": (100, 0)},
        {"bounds": (0, np.nan)},
        {"bounds": 5},
        {"bounds": ("0", "9")},
        {"r2_min": "0.8"},
        {"r2_min": np.nan},
        {"r2_min": True},
        {"skip_first_echo": 1},
    ],
)
def test_run__wrong_parameters_of_t2(lake: Lake, wrong: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=rf"step t2: {next(iter(wrong))}=.* \(expected"):
        lake.run("t2", **wrong)
    assert "t2" not in lake.refresh().status().index
    assert (
        len(lake.plan("t2", bounds=[0, np.float32(9)], r2_min=1, skip_first_echo=False).rows) == 6
    )


def test_step__parameter_that_run_would_swallow() -> None:
    options = [p for p in inspect.signature(Lake.run).parameters.values() if p.name != "self"]
    names = [p.name for p in options if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert sorted(_OPTIONS_OF_RUN) == sorted(names)
    with pytest.raises(RunError, match=r"step f: parameter 'variant' \(expected .* Choose"):
        Step("f", lambda msme, *, variant=1: {}, {}, double.writes, "1")


def test_step__called_by_itself(lake: Lake) -> None:
    exam = read_exam(lake.root, "msme", ["image", "echo_time"], 1)
    assert dict(exam.sizes) == {"echo": 7, "slice": 4, "row": 12, "column": 10}
    assert first_echo(exam, gain=2.0)["test_name"].item() == "exam 1"
    assert find_step("first_echo") is first_echo


@pytest.mark.parametrize("path", ["msme/image", "msme/cartilage", "msme/t2", "msme/test_mean"])
def test_step__writes_what_another_makes(path: str) -> None:
    before = list(REGISTRY)
    new = ql.Variable("msme", "test_new", (), "float32", "New")
    with pytest.raises(VariableError, match=rf"mine: writes has {path}, which step \w+ writes"):
        ql.step(reads={}, writes=[new, REGISTRY[path]], name="mine")(lambda: {})
    assert list(REGISTRY) == before
    again = ql.step(reads={}, writes=double.writes, name="double")(double.function)
    assert find_step("double") is again


def test_step__declared_twice() -> None:
    with pytest.raises(VariableError, match="second declaration of msme/test_mean"):
        ql.step(
            reads={},
            writes=[ql.Variable("msme", "test_mean", (), "int32", "Other")],
            name="first_echo",
        )(double)
    with pytest.raises(VariableError, match="exactly one group"):
        ql.step(reads={}, writes=[])


def test_step__former_names_of_options_are_deprecated() -> None:
    writes = [ql.Variable("msme", "test_former", (), "float64", "A number")]
    with temporary_steps():
        with pytest.warns(DeprecationWarning, match="is now called") as warned:

            @ql.step(
                reads={"msme": ["test_mean"]},
                writes=writes,
                copies=7,
                check=lambda **values: {"gain": 2 * values["gain"]},
                recorded=lambda **values: {"doubled": values["gain"]},
                together=_thirds,
            )
            def former(msme: xr.Dataset, *, gain: float = 1.0) -> Any:
                return {}

        assert [str(w.message).split("'")[1::2] for w in warned] == [
            ["copies", "memory_factor"],
            ["check", "validate"],
            ["recorded", "recorded_parameters"],
            ["together", "batch_function"],
        ]
        assert {w.filename for w in warned} == {__file__}
        assert (former.memory_factor, former.exams_a_task) == (7, 16)
        assert former.parameters({"gain": 3.0}) == {"gain": 6.0}
        assert former.record({"gain": 6.0}) == {"doubled": 6.0}
    with pytest.raises(TypeError, match="unexpected keyword argument 'cheque'"):
        ql.step(reads={}, writes=writes, cheque=None)


READS_T2 = """
import sys
import qmri_lake as ql

@ql.step(
    reads={"msme": ["t2"]},
    writes=[ql.Variable("msme", "t2_mean", (), "float32", "Mean T2", unit="ms")],
)
def t2_mean(msme):
    return {"t2_mean": msme["t2"].mean()}

print(ql.open_lake(sys.argv[1]).run(t2_mean))
"""


@pytest.mark.slow
def test_run__a_step_of_ones_own_reads_ours_in_a_fresh_process(tmp_path):
    lake = array_lake(tmp_path / "l.lake", 2)
    lake.run("t2")
    command = [sys.executable, "-c", READS_T2, lake.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("t2_mean: 2 done")
    assert np.isfinite(lake.refresh().load("msme").t2_mean).all()
