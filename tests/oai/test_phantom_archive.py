"""The synthetic OAI, read with the readers of OAI deliveries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qmri_lake.oai import inventory, read_series, read_tables
from qmri_lake.phantom import write_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("oai"), exams=3, shape=(20, 48, 48))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed")
    return write_archive(path, exams=3, shape=(20, 48, 48), compress=True)


@pytest.mark.slow
def test_inventory__clean_archive_has_no_problem(archive):
    found = inventory(archive.path)
    assert found.problems == ()
    assert sorted(found.exams()) == sorted(archive.exams)
    assert found.ignored == {"localizer": len(archive.exams)}
    assert all("dess" in groups for groups in found.exams().values())
    assert len(found.repeats) >= 1


@pytest.mark.slow
def test_read_series__geometry_is_the_truth(archive):
    for series in inventory(archive.path).series:
        truth = np.load(archive.truth / f"{series.exam}.npz")
        volume = read_series(series)
        np.testing.assert_allclose(volume.affine, truth[f"{series.group}_affine"], atol=1e-5)
        assert volume.image.shape[-3:] == truth[f"{series.group}_bone"].shape


@pytest.mark.slow
def test_read_series__tars_equal_folders(archive, packed):
    plain, tars = inventory(archive.path), inventory(packed.path)
    assert tars.problems == ()
    assert [r.exam for r in tars.repeats] == [r.exam for r in plain.repeats]
    for a, b in zip(plain.series, tars.series, strict=True):
        assert (a.exam, a.group, a.uid) == (b.exam, b.group, b.uid)
        assert read_series(a).digest == read_series(b).digest


@pytest.mark.slow
def test_read_tables__values_are_the_truth(archive):
    tables = read_tables(archive.path)
    assert tables.problems == ()
    assert tables.unused == {}
    truth = pd.read_csv(archive.truth / "exams.csv")
    keys = ["patient", "timepoint", "knee"]
    joined = truth.merge(tables.visits, on=keys, suffixes=("_true", ""), validate="1:1")
    assert len(joined) == len(truth)
    for name in ("sex", "bmi", "kl"):
        np.testing.assert_allclose(joined[name], joined[f"{name}_true"], atol=0.051)
    # The table holds whole years at enrolment.
    np.testing.assert_allclose(joined["age"], joined["age_true"], atol=0.51)
    assert not joined["replaced"].any()
