"""Groups: the one list that the others derive from, and a kind of series of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

import qmri_lake as ql
from qmri_lake.catalog import open_catalog, write_catalog
from qmri_lake.errors import VariableError
from qmri_lake.execution.exam_io import write_exam
from qmri_lake.execution.step import temporary_steps
from qmri_lake.lake.lake import Lake, create_lake
from qmri_lake.oai.protocol import classify
from qmri_lake.schema.builtin import REGISTRY, declare_series
from qmri_lake.schema.groups import GROUPS, VOLUME_DIMS, Group
from qmri_lake.schema.variable import sizes_of
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.transaction import Transaction, append_exams, declare
from tests.fixtures import array_lake

UTE = Group(
    "ute",
    45,
    "Ultrashort echoes, their geometry and T2* maps",
    dims=("echo", *VOLUME_DIMS),
    inner_slices=2,
    sizes={"echo": 4, "slice": 30, "row": 256, "column": 256},
    title="UTE",
    series="SAG_UTE",
)
TIMES = np.array([0.0, 20.0, 40.0, 60.0])
SHAPE = (4, 5, 6, 7)


def image_of(row: int) -> np.ndarray:
    """Signal (echo, slice, row, column) that decays with 40 ms, other in each exam."""
    decay = np.exp(-TIMES / 40)[:, None, None, None]
    return (100 * (row + 1) * decay * np.ones(SHAPE)).astype(np.float32)


def ute_lake(path: Path) -> Lake:
    """A lake of two exams that have images of the new series only."""
    lake = create_lake(str(path))
    variables = REGISTRY.variables_of("ingest_ute")

    def build(session: Any) -> None:
        exams = [(9000001, 0, "right"), (9000001, 24, "right")]
        append_exams(session, pd.DataFrame(exams, columns=["patient", "timepoint", "knee"]))
        root = open_root(session.store, "r+")
        declare(root, variables, sizes_of("ute", SHAPE))
        change = Transaction(runs={1: {"step": "ingest", "parameters": {}, "version": "1"}})
        for row in range(2):
            product = {
                "image": image_of(row),
                "affine": np.diag([3.0, 0.5, 0.5, 1.0]),
                "extent": np.array(SHAPE[1:]),
                "series_uid": np.array(f"1.2.{row}", dtype=object),
                "digest": np.array("0", dtype=object),
                "echo_time": TIMES,
            }
            for name, value in write_exam(root, variables, product, row, f"exam {row}").items():
                change.set_small(name, row, value)
            change.set_state("ingest_ute", row, "done", 1)
        change(session)

    commit(lake.repo, build, "Add UTE images")
    return lake.refresh()


def declare_step() -> Any:
    @ql.step(
        reads={"ute": ["image", "echo_time"]},
        writes=[ql.Variable("ute", "ute", VOLUME_DIMS, "float32", "UTE", "ms", "not fitted")],
    )
    def ute(ds: xr.Dataset) -> Any:
        slope = np.polyfit(ds["echo_time"], np.log(ds["image"].values).reshape(4, -1), 1)[0]
        return {"ute": (-1 / slope).reshape(ds["image"].shape[1:]).astype("float32")}

    return ute


def test_declare_series__a_third_series_from_image_to_map_and_catalog(tmp_path: Path) -> None:
    with temporary_steps():
        declare_series(UTE)
        step = declare_step()
        lake = ute_lake(tmp_path / "ute.lake")
        assert lake.groups() == ["ute"]
        assert lake.root["ute/image"].chunks == (1, 4, 2, 6, 7)  # of its own inner_slices
        assert lake.root["ute/image"].shards == (1, 4, 6, 6, 7)

        ds = lake.load("ute")
        assert ds["image"].chunks is not None
        assert ds["image"].dims == ("exam", *UTE.dims)
        np.testing.assert_array_equal(ds["image"].isel(exam=1), image_of(1))

        assert lake.run(step).counts["done"] == 2
        np.testing.assert_allclose(lake.load("ute")["ute"], 40, rtol=1e-4)
        assert lake.validate(deep=True) == []

        path = write_catalog(lake)
        entry = yaml.safe_load(path.read_text())["entries"]["ute"]
        assert entry["metadata"]["description"] == UTE.prose
        np.testing.assert_array_equal(open_catalog(path).ute.read()["image"][0], image_of(0))
    assert "ute" not in GROUPS
    assert "ute/image" not in REGISTRY
    # A lake is read without the declaration too; its group then comes last.
    assert ql.open_lake(lake.url).load("ute")["ute"].shape == (2, *SHAPE[1:])


def test_validate__finds_a_broken_image_of_a_third_series(tmp_path: Path) -> None:
    with temporary_steps():
        declare_series(UTE)
        lake = ute_lake(tmp_path / "ute.lake")
        change = Transaction()
        change.set_small("ute/affine", 1, np.zeros((4, 4)))
        commit(lake.repo, change, "Break an affine")
        (fault,) = lake.refresh().validate()
        assert fault.startswith("ute/affine of 9000001-024m-right: voxel volume is 0 or NaN")


def test_groups__lists_derive_from_a_third_series() -> None:
    declared = ("dess", "msme", "t1rho", "t2star", "qdess")
    assert GROUPS.series() == declared
    with temporary_steps():
        declare_series(UTE)
        assert declare_series(UTE) == UTE
        assert GROUPS.series() == (*declared[:2], "t1rho", "t2star", "ute", "qdess")
        assert classify("sag_ute_LEFT") == "ute"
        assert classify("COR_UTE") == ""
        assert GROUPS.profile_sizes("oai", "ute") == UTE.sizes
        assert GROUPS.profile_sizes(None, "ute") == {}
        assert GROUPS.with_echoes(True) == "msme"  # the first one, as before
        assert sorted(["sphere", "other", "ute", "msme", "clinical"], key=GROUPS.position) == [
            *("clinical", "msme", "ute", "sphere", "other")
        ]
        with pytest.raises(VariableError, match="a second declaration of group ute"):
            declare_series(Group("ute", 45, "Another one", dims=VOLUME_DIMS))
    with pytest.raises(VariableError, match="no image dimensions"):
        declare_series(Group("table", 99, "Numbers"))
    with pytest.raises(VariableError, match="dimensions that end with slice, row, column"):
        Group("odd", 99, "Odd", dims=("row", "slice", "column"))
    with pytest.raises(VariableError, match="at most one dimension before"):
        Group("odd", 99, "Odd", dims=("echo", "coil", *VOLUME_DIMS))
    with pytest.raises(VariableError, match="parameter 'te'"):
        Group("odd", 99, "Odd", dims=VOLUME_DIMS, parameters=("te",))
    with pytest.raises(VariableError, match="sizes of slice, row, column"):
        Group("odd", 99, "Odd", dims=VOLUME_DIMS, sizes={"slice": 3})


def test_groups__stored_layout_of_existing_series(tmp_path: Path) -> None:
    assert GROUPS.profile_sizes("oai", "dess") == {"slice": 176, "row": 384, "column": 384}
    assert GROUPS.profile_sizes("oai", "msme") == {
        **{"echo": 7, "slice": 40},
        **{"row": 384, "column": 384},
    }
    for group, chunk in (("dess", (1, 16, 384, 384)), ("msme", (1, 7, 4, 384, 384))):
        image = REGISTRY[f"{group}/image"]
        assert image.chunks(GROUPS.profile_sizes("oai", group))[0] == chunk
    lake = array_lake(tmp_path / "a.lake")
    assert lake.root["msme"].attrs["sizes"] == {"echo": 7, "slice": 5, "row": 12, "column": 10}
    assert list(REGISTRY["msme/image"].attributes()) == [
        *("long_name", "fill_meaning", "step"),
    ]
