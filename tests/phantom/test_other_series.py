"""T1rho, T2* and qDESS of the synthetic archive: ingested, and fitted to their truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError
from qmri_lake.tissues import CARTILAGE

KINDS = ("t1rho", "t2star", "qdess")


def test_write_archive__other_series_have_the_truth_of_the_knee(tmp_path: Path) -> None:
    options = {"exams": 1, "shape": (20, 48, 48), "signal": "mono", "msme_noise": 0.0}
    archive = ql.phantom.write_archive(tmp_path / "a", series=KINDS, **options)
    with pytest.raises(InputError, match="an archive of other settings"):
        ql.phantom.write_archive(tmp_path / "a", **options)
    with pytest.raises(InputError, match="series 'dti'"):
        ql.phantom.write_archive(tmp_path / "b", series=["dti"], **options)  # type: ignore[list-item]
    result = ql.ingest(archive.path, tmp_path / "a.lake", masks=archive.truth)
    assert result.problems == ()
    assert {name for name, n in result.added.items() if n} == {"dess", "msme", *KINDS}
    lake = result.lake
    truth = np.load(archive.truth / f"{archive.exams[0]}.npz")
    cartilage = np.isin(truth["msme_cartilage"], (1, 2, 3)) & np.isfinite(truth["t2"])
    assert cartilage.sum() > 50
    for name, factor in (("t1rho", 1.15), ("t2star", 0.6)):
        fit = {"t1rho": ql.fit_t1rho, "t2star": ql.fit_t2star}[name]
        fitted = fit(lake.load(name), within="all")[name][0].values
        # Stored values are whole numbers, of about 1000.
        np.testing.assert_allclose(fitted[cartilage], factor * truth["t2"][cartilage], rtol=0.01)
    t2 = ql.fit_qdess_t2(lake.load("qdess"), within="all", solution="exact")["t2"][0].values
    inside = truth["dess_cartilage"] == CARTILAGE["femoral"]
    assert 30 < np.nanmedian(t2[inside]) < 48
    np.testing.assert_allclose(lake.load("qdess")["affine"][0], truth["dess_affine"], atol=1e-6)
