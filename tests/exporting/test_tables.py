"""Tables of exports, read by pandas: equal values, types, missing cells and a dictionary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import qmri_lake as ql
from qmri_lake.exporting.export_result import ExportResult
from tests.exporting.lakes import KEYS
from tests.fixtures import add_clinical, add_visits, array_lake


@pytest.fixture(scope="module", params=["csv", "parquet"])
def tables(
    request: pytest.FixtureRequest, export_lake: ql.Lake, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    out = tmp_path_factory.mktemp(request.param)
    return ql.export(export_lake, out, format=request.param)


def read(result: ExportResult, name: str) -> pd.DataFrame:
    path = result.out / f"{name}.{result.format}"
    return pd.read_csv(path) if result.format == "csv" else pd.read_parquet(path)


def test_tables__pandas_reads_the_values_of_the_lake(
    export_lake: ql.Lake, tables: ExportResult
) -> None:
    wide = read(tables, "exams")
    assert wide["exam"].tolist() == KEYS
    assert wide["timepoint"].tolist() == [0, 0, 24]
    assert wide["synthetic"].tolist() == [True, True, False]
    bmi = wide["bmi"].astype("Float64")
    assert bmi.isna().tolist() == [False, True, False]
    assert np.float32(bmi[0]) == np.float32(27.4)
    if tables.format == "csv":
        assert "27.4," in (tables.out / "exams.csv").read_text()  # its shortest digits
    assert wide["sex"].tolist() == ["male", "female", "male"]
    regions = [str(name) for name in export_lake.root["region/region"][...]]
    stored = export_lake.root["region/thickness"][:]
    numbers = export_lake.root["region/volume_n"][:]
    for n, region in enumerate(regions):
        found = (
            wide[f"region_thickness_{region}"].astype("Float64").to_numpy(float, na_value=np.nan)
        )
        np.testing.assert_array_equal(found.astype(np.float32), stored[:, n])
        counts = wide[f"region_volume_n_{region}"].astype("Float64")
        assert counts.isna().tolist() == (numbers[:, n] == -1).tolist()  # -1 is no value


def test_tables__long_rows_have_a_unit_and_no_missing_value(
    export_lake: ql.Lake, tables: ExportResult
) -> None:
    long = read(tables, "values")
    stored = export_lake.root["region/thickness"][:2]
    mine = long[long["variable"] == "region/thickness"]
    assert set(mine["unit"]) == {"mm"}
    wide = mine.pivot(index="exam", columns="place", values="value")
    regions = [str(name) for name in export_lake.root["region/region"][...]]
    np.testing.assert_allclose(wide.loc[KEYS[:2], regions].to_numpy(float), stored, rtol=1e-7)
    sexes = long[long["variable"] == "clinical/sex"].set_index("exam")["text"]
    assert sexes.loc[KEYS].tolist() == ["male", "female", "male"]
    assert not (long["value"].isna() & long["text"].isna()).any()
    assert KEYS[1] not in set(long[long["variable"] == "clinical/bmi"]["exam"])


def test_tables__the_dictionary_describes_every_column(
    export_lake: ql.Lake, tables: ExportResult
) -> None:
    text = json.loads((tables.out / f"columns.{tables.format}.json").read_text())
    assert text["snapshot"] == export_lake.snapshot
    for resource in text["resources"]:
        columns = [field["name"] for field in resource["schema"]["fields"]]
        assert columns == read(tables, resource["name"]).columns.tolist()
    fields = {field["name"]: field for field in text["resources"][0]["schema"]["fields"]}
    assert fields["bmi"]["unit"] == "kg m-2"
    assert fields["bmi"]["missing"] == "not measured"
    assert fields["bmi"]["constraints"] == {"minimum": 8, "maximum": 90}
    assert fields["sex"]["flags"] == {"male": 1, "female": 2}
    assert fields["sex"]["constraints"]["enum"] == ["male", "female"]


def test_tables__are_written_again_only_for_another_snapshot_or_cohort(
    export_lake: ql.Lake, tmp_path: Path
) -> None:
    first = ql.export(export_lake, tmp_path, format="csv")
    again = ql.export(export_lake, tmp_path, format="csv")
    assert (first.written, again.written, again.unchanged) == (3, 0, 3)
    fewer = ql.export(export_lake.cohort("kl == 1"), tmp_path, format="csv")
    assert fewer.written == 1
    assert len(pd.read_csv(tmp_path / "exams.csv")) == 1
    assert (again.problems, fewer.problems) == ((), ())
    with pytest.raises(ql.errors.InputError, match="the format prescribes the names"):
        ql.export(export_lake, tmp_path, format="csv", pattern="{exam}")


def test_tables__visits_are_those_of_the_patients_if_named(tmp_path: Path) -> None:
    lake = add_visits(add_clinical(array_lake(tmp_path / "oai.lake", 6), kl=np.arange(6) % 5))
    names = ["visit", "clinical/kl"]
    result = ql.export(
        lake.cohort("patient == 9000002"), tmp_path / "out", format="csv", variables=names
    )
    assert result.files == ("columns.csv.json", "exams.csv", "values.csv", "visits.csv")
    visits = pd.read_csv(tmp_path / "out" / "visits.csv")
    assert set(visits["patient"]) == {9000002}
    assert pd.read_csv(tmp_path / "out" / "exams.csv")["kl"].tolist() == [4.0, 0.0]
