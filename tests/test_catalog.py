"""The groups of a lake as intake entries of YAML files."""

from __future__ import annotations

import copy
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import intake
import numpy as np
import pytest
import xarray as xr
import yaml

import qmri_lake as ql
from qmri_lake.catalog import LakeReader, open_catalog, write_catalog
from qmri_lake.errors import (
    InputError,
    NotALakeError,
    NotFoundError,
    QmriLakeError,
    QueryError,
    UnknownRefError,
)
from tests.fixtures import add_clinical, add_dess, add_maps, add_visits, array_lake

CATALOGS = Path(__file__).parents[1] / "catalogs"
QUERY = "knee == 'right' and kl >= 2"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with catalogs/ beside demo/oai.lake and oai.lake, its tag v1 before the DESS."""
    folder = tmp_path_factory.mktemp("project #1 %20")
    shutil.copytree(CATALOGS, folder / "catalogs")
    lake = array_lake(folder / "demo" / "oai.lake", 8)
    add_visits(add_clinical(lake, kl=[0, 1, 2, 3, 4, np.nan, 2, 0]))
    lake.tag("v1")
    add_maps(add_dess(lake))
    shutil.copytree(folder / "demo" / "oai.lake", folder / "oai.lake")
    return folder


@pytest.fixture(scope="module")
def lake(project):
    return ql.open_lake(str(project / "demo" / "oai.lake"))


@pytest.fixture(scope="module", params=[intake.open_catalog, open_catalog], ids=["intake", "ours"])
def cat(request, project):
    return request.param(str(project / "catalogs" / "demo.yaml"))


def _refuse(*_args, **_kwargs):
    raise AssertionError("something was computed")


def test_catalog__lists_its_entries(cat):
    assert set(cat) >= {"clinical", "dess", "msme", "sphere", "visit"}
    assert "msme" in cat
    assert "nosuch" not in cat
    assert {"query", "lake_ref"} <= set(cat.user_parameters)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["clinical", "dess", "msme", "sphere", "visit"])
def test_read__without_parameters_is_the_whole_lake(cat, lake, group):
    with dask.config.set(scheduler=_refuse):
        ds = cat[group].read()
    xr.testing.assert_identical(ds, lake.load(group))
    large = [v for v in ds.data_vars.values() if {"row", "azimuth"} & {*v.dims}]
    assert bool(large) == (group in ("dess", "msme", "sphere"))
    assert all(array.chunks is not None for array in large)


def test_read__chooses_exams_at_a_tag(cat, lake, project):
    with dask.config.set(scheduler=_refuse):
        ds = cat(query=QUERY, lake_ref="v1").msme.read()
    old = ql.open_lake(str(project / "demo" / "oai.lake"), ref="v1")
    xr.testing.assert_identical(ds, old.load("msme", old.cohort(QUERY)))
    assert ds.exam.values.tolist() == lake.cohort(QUERY).exams["exam"].tolist()
    assert ds.sizes["exam"] == 3
    assert old.snapshot in ds.attrs["lake"]


def test_read__chooses_exams_at_a_branch_or_snapshot(cat, lake):
    tagged = lake.repo.lookup_tag("v1")
    assert cat(lake_ref=tagged).msme.read().attrs["lake"].endswith(tagged)
    if "trial" not in lake.repo.list_branches():
        lake.repo.create_branch("trial", tagged)
    assert cat(lake_ref="trial").msme.read().attrs["lake"].endswith(tagged)
    with pytest.raises(
        NotFoundError, match=r"no group 'dess' \(expected one of clinical, visit, ms"
    ):
        cat(lake_ref=tagged).dess.read()


@pytest.mark.slow
def test_read__takes_parameters_at_every_level(cat):
    expected = cat(query=QUERY).msme.read()
    xr.testing.assert_identical(cat.msme.read(query=QUERY), expected)
    xr.testing.assert_identical(cat.msme(query=QUERY).read(), expected)
    xr.testing.assert_identical(cat(lake_ref="main")(query=QUERY).msme.read(), expected)
    assert cat.msme.read(query=None, lake_ref="").sizes["exam"] == 8
    assert cat.msme.read().sizes["exam"] == 8, "parameters of a copy must not stick"


def test_read__a_set_in_a_query_is_not_a_template(cat):
    assert cat(query="knee in {'right'}").msme.read().sizes["exam"] == 4


@pytest.mark.parametrize(
    "text",
    [
        "func(tests.exploded:now)",
        "import(tests.exploded:now)",
        "{func(tests.exploded:now)}",
        "{import(tests.exploded:now)}",
        "env(HOME)",
        "{env(HOME)}",
        "data(lake)",
        "pickle64(gASVAAAAAAAAAACULg==)",
        "__import__('os').getcwd()",
    ],
)
def test_read__evaluates_no_query(cat, text):
    with pytest.raises(QueryError):
        cat(query=text).msme.read()
    with pytest.raises(QueryError):
        cat.msme.read(query=text)
    with pytest.raises(UnknownRefError, match=re.escape(repr(text))):
        cat(lake_ref=text).msme.read()


def test_read__errors_are_those_of_the_package(cat):
    with pytest.raises(QueryError, match="no column 'grade'"):
        cat(query="grade > 1").msme.read()
    with pytest.raises(UnknownRefError, match=r"no tag, branch or snapshot 'v9'.*v1"):
        cat(lake_ref="v9").msme.read()
    with pytest.raises(QueryError, match=r"query = 3 \(expected a string"):
        cat(query=3).msme.read()


def test_read__refuses_unknown_parameters(cat):
    with pytest.raises(QueryError, match=r"no parameter 'qurey' \(expected one of query, lake_ref"):
        cat(qurey=QUERY).msme.read()
    with pytest.raises(QueryError, match=r"no parameter 'ref'.*Did you mean 'lake_ref'"):
        cat(ref="v1").msme.read()
    with pytest.raises(QueryError, match="no parameter 'exam'"):
        cat.msme.read(exam="9000001-000m-right")


def test_read__a_pipeline_over_an_entry(cat, lake):
    dims = ("echo", "slice", "row", "column")
    mean = cat(query=QUERY).msme.image.mean(dims).read()
    xr.testing.assert_allclose(mean, lake.load("msme", QUERY).image.mean(dims))


def test_reader__survives_pickling(cat, lake):
    reader = pickle.loads(pickle.dumps(cat(query=QUERY).msme))
    xr.testing.assert_identical(reader.read(), lake.load("msme", QUERY))


def test_catalog__round_trip_through_a_file(cat, tmp_path, project):
    cat.to_yaml_file(str(tmp_path / "copy.yaml"))
    text = (tmp_path / "copy.yaml").read_text()
    again = intake.open_catalog(str(tmp_path / "copy.yaml"))
    assert sorted(again) == sorted(cat)
    assert "{query}" in text


MARK = "touch {path}"
HOSTILE: dict[str, Callable[[dict, str], None]] = {
    "a reader that calls a function": lambda content, call: content["entries"]["msme"].update(
        reader="intake.readers.convert:Pipeline",
        kwargs={"steps": [["{func(os:system)}", [call], {}]], "out_instances": ["x:y"]},
    ),
    "a reader of another class": lambda content, call: content["entries"]["msme"].update(
        reader="os:system", kwargs={"command": call}
    ),
    "data of another class": lambda content, call: content["data"]["lake"].update(
        datatype="os:system", kwargs={"command": call}
    ),
    "a template in the URL": lambda content, call: content["data"]["lake"].update(
        kwargs={"url": "{func(os:system)}"}
    ),
    "a template in a query": lambda content, call: content["entries"]["msme"]["kwargs"].update(
        cohort="{import(os)}"
    ),
    "a template that is not closed": lambda content, call: content["entries"]["msme"][
        "metadata"
    ].update(description="{func(os:system)"),
    "an output of another class": lambda content, call: content["entries"]["msme"].update(
        output_instance="os:system"
    ),
    "a parameter of another class": lambda content, call: content["user_parameters"].update(
        query={"cls": "os:system", "default": call, "description": ""}
    ),
    "a parameter of an entry": lambda content, call: content["entries"]["msme"].update(
        user_parameters={"x": {"cls": "os:system", "default": call}}
    ),
    "another section": lambda content, call: content.update(hooks={"x": call}),
    "an entry that is a text": lambda content, call: content["entries"].update(msme="os:system"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_open_catalog__refuses_what_is_not_of_a_lake(lake, tmp_path, change):
    path = write_catalog(lake.url, tmp_path / "c.yaml")
    content = yaml.safe_load(path.read_text())
    change(content, MARK.format(path=tmp_path / "ran"))
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="A catalog can run code") as caught:
        ql.open_catalog(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [touch ran]", "[1, 2]", "", "a: [", "version: 1"]
)
def test_open_catalog__refuses_other_files(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c.yaml: not a (YAML file|catalog of version 2)"):
        ql.open_catalog("c.yaml")
    assert not (tmp_path / "ran").exists()


def test_open_catalog__takes_the_location_from_the_environment(lake, tmp_path, monkeypatch):
    path = write_catalog(lake.url, tmp_path / "c.yaml")
    content = yaml.safe_load(path.read_text())
    content["data"]["lake"]["kwargs"]["url"] = "{env(QMRI_LAKE_TEST_URL)}"
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("QMRI_LAKE_TEST_URL", lake.url)
    assert ql.open_catalog(path).msme.read().sizes["exam"] == 8


def test_open_catalog__errors_list_available_names(project):
    path = str(project / "catalogs" / "demo.yaml")
    cat = open_catalog(path)
    for wrong in (lambda: cat.nosuch, lambda: cat["nosuch"], lambda: cat(query=QUERY).nosuch):
        with pytest.raises(QmriLakeError) as caught:
            wrong()
        listed = ", ".join(sorted(cat))
        assert f"no entry 'nosuch' (expected one of {listed}" in str(caught.value)
        assert path in str(caught.value)
        assert isinstance(caught.value, AttributeError)
        assert isinstance(caught.value, KeyError)
    with pytest.raises(AttributeError, match="Did you mean 'msme'"):
        _ = cat.mesm
    assert not hasattr(cat, "nosuch")
    with pytest.raises(QueryError, match="no parameter 'querry'"):
        cat(querry=QUERY)
    assert sorted(copy.deepcopy(cat)) == sorted(pickle.loads(pickle.dumps(cat))) == sorted(cat)


def test_open_catalog__a_wrong_name_is_an_attribute_error_in_plain_intake(project):
    cat = intake.open_catalog(str(project / "catalogs" / "demo.yaml"))
    with pytest.raises(AttributeError, match="nosuch"):
        _ = cat.nosuch
    with pytest.raises(KeyError, match="nosuch"):
        _ = cat["nosuch"]


@pytest.mark.parametrize("name", ["demo", "oai"])
def test_read__where_there_is_no_lake_yet(name, tmp_path):
    shutil.copytree(CATALOGS, tmp_path / "catalogs")
    cat = intake.open_catalog(str(tmp_path / "catalogs" / f"{name}.yaml"))
    assert "msme" in list(cat)
    todo = {"demo": "Run `qmri-lake demo demo`", "oai": "or create one with"}[name]
    with pytest.raises(NotALakeError, match=f"no such folder.*{re.escape(todo)}") as caught:
        cat.msme.read()
    assert ".." not in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("name", ["demo", "oai"])
def test_catalogs__match_a_written_one_except_descriptions(name, project, lake):
    """The committed catalogs equal the output of write_catalog, except descriptions."""
    written = yaml.safe_load(write_catalog(lake, project / "written.yaml").read_text())
    kept = yaml.safe_load((CATALOGS / f"{name}.yaml").read_text())
    assert kept.pop("metadata")["name"] == name
    assert kept["data"]["lake"]["metadata"].pop("absent")
    url = {"demo": "{CATALOG_DIR}/../demo/oai.lake", "oai": "{CATALOG_DIR}/../oai.lake"}[name]
    assert kept["data"]["lake"]["kwargs"].pop("url") == url
    written.pop("metadata")
    written["data"]["lake"]["kwargs"].pop("url")
    assert kept == written


def test_oai_template__reads_a_lake(project):
    cat = intake.open_catalog(str(project / "catalogs" / "oai.yaml"))
    assert cat(query=QUERY).dess.read().sizes == {
        "exam": 3,
        "slice": 6,
        "row": 16,
        "column": 8,
        "world": 4,
        "voxel": 4,
        "axis": 3,
    }


def test_write_catalog__beside_the_lake_and_movable(tmp_path):
    array_lake(tmp_path / "a" / "small.lake", 2)
    path = write_catalog(tmp_path / "a" / "small.lake")
    assert path == tmp_path / "a" / "small.yaml"
    assert "url: '{CATALOG_DIR}/small.lake'" in path.read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    cat = intake.open_catalog(str(tmp_path / "b" / "small.yaml"))
    assert list(cat) == ["msme"]
    assert cat.msme.read().sizes["exam"] == 2


def test_write_catalog__elsewhere_names_the_whole_path(lake, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(lake.url).parent)
    path = write_catalog("oai.lake", tmp_path / "far.yaml")
    monkeypatch.chdir(tmp_path)
    assert f"url: {lake.url}" in path.read_text().replace("'", "")
    assert open_catalog("far.yaml").msme.read().sizes["exam"] == 8


def test_write_catalog__needs_a_lake(tmp_path):
    with pytest.raises(NotALakeError, match="no such folder"):
        write_catalog(tmp_path / "nothing.lake")
    assert list(tmp_path.iterdir()) == []


def test_reader__joins_groups(lake, tmp_path):
    path = write_catalog(lake.url, tmp_path / "c.yaml")
    content = yaml.safe_load(path.read_text())
    content["entries"]["both"] = copy.deepcopy(content["entries"]["msme"])
    content["entries"]["both"]["kwargs"]["group"] = ["msme", "clinical"]
    content["aliases"]["both"] = "both"
    path.write_text(yaml.safe_dump(content))
    ds = intake.open_catalog(str(path))(query="kl == 4").both.read()
    assert ds.kl.values.tolist() == [4]
    assert "image" in ds


def test_reader__without_a_url(lake, tmp_path):
    path = write_catalog(lake.url, tmp_path / "c.yaml")
    content = yaml.safe_load(path.read_text())
    content["data"]["lake"]["kwargs"]["url"] = "{env(QMRI_LAKE_NO_SUCH_VARIABLE)}"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(NotALakeError, match="no URL of the lake"):
        _ = intake.open_catalog(str(path)).msme


def test_reader__is_what_intake_recommends(lake):
    from intake.readers.readers import recommend

    from qmri_lake.catalog import LakeData

    assert LakeReader in recommend(LakeData(lake.url))["importable"]
    xr.testing.assert_identical(
        LakeData(lake.url).to_reader(group="msme").read(), lake.load("msme")
    )


def test_readme__its_code_runs(project):
    """Every Python block of catalogs/README.md, in order, in a fresh process, from the root."""
    blocks = re.findall(r"```python\n(.*?)```", (CATALOGS / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    shown = re.search(r"```yaml\n(.*?)```", (CATALOGS / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    own = yaml.safe_load((CATALOGS / "demo.yaml").read_text())
    added = yaml.safe_load(shown[1])
    own["entries"] |= added["entries"]
    own["aliases"] |= added["aliases"]
    (project / "catalogs" / "mine.yaml").write_text(yaml.safe_dump(own))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(CATALOGS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
