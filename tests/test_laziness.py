"""What is read when: counted at the store, under a Dask scheduler that refuses to compute."""

from __future__ import annotations

import dask
import numpy as np
import pytest
from zarr.storage import WrapperStore

import qmri_lake as ql
from qmri_lake.catalog import open_catalog, write_catalog
from tests.fixtures import add_clinical, add_dess, array_lake

EXAMS = 20


class CountingStore(WrapperStore):
    """Remembers which chunks were asked for, and how many bytes of each came."""

    def __init__(self, store):
        super().__init__(store)
        self.reads: list[tuple[str, int]] = []

    def _with_store(self, store):
        copy = type(self)(store)
        copy.reads = self.reads
        return copy

    async def get(self, key, prototype, byte_range=None):
        value = await super().get(key, prototype, byte_range)
        if "/c/" in key:
            self.reads.append((key, 0 if value is None else len(value)))
        return value

    async def get_partial_values(self, prototype, key_ranges):
        raise AssertionError("Zarr reads by a way that is not counted here")

    def take(self, *arrays: str) -> dict[str, int]:
        """Bytes by chunk of the bulk arrays, or those named, since the last call."""
        found: dict[str, int] = {}
        for key, size in self.reads:
            if key.partition("/c/")[0] in (arrays or BULK):
                found[key] = found.get(key, 0) + size
        self.reads.clear()
        return found


BULK = ("msme/image", "msme/cartilage", "dess/image", "dess/cartilage")


def _watched(lake):
    lake.store = CountingStore(lake.store)
    for cached in ("root", "exams", "_column_cache"):
        lake.__dict__.pop(cached, None)
    return lake


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lazy")
    add_dess(add_clinical(array_lake(folder / "small.lake", EXAMS), kl=np.arange(EXAMS) % 5))
    return folder


@pytest.fixture
def lake(folder):
    return _watched(ql.open_lake(str(folder / "small.lake")))


@pytest.fixture
def nothing_computed():
    def refuse(*_args, **_kwargs):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def test_the_counter_counts(lake):
    ds = lake.load("msme", exam="9000001-000m-left")
    assert lake.store.take() == {}
    ds.image.compute(scheduler="synchronous")
    assert list(lake.store.take()) == ["msme/image/c/1/0/0/0/0"]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize(
    "use",
    [
        lambda lake: lake.load("msme"),
        lambda lake: lake.load("dess", "kl >= 2"),
        lambda lake: lake.load(["msme", "clinical"], lake.cohort("kl >= 2").require("msme/image")),
        lambda lake: lake.load("msme", patient=9000002, timepoint=24, knee="left"),
        lambda lake: lake.tree("kl >= 2"),
        lambda lake: ql.fit_t2(lake.load("msme")),
        lambda lake: ql.fit_t2(lake.load("msme", "kl >= 2"), skip_first_echo=False).t2.mean(),
        lambda lake: ql.inside(lake.load("dess")),
        lambda lake: ql.tissue(lake.load("msme").cartilage, "femoral"),
        lambda lake: lake.load("msme").sel(patient=9000001).isel(exam=slice(1, None), slice=2),
        lambda lake: repr(lake.load("msme")) + lake.load("msme")._repr_html_() + repr(lake.tree()),
        lambda lake: repr(lake) + repr(lake.cohort("kl >= 2")) + str(lake.status()),
        lambda lake: lake.plan("t2", "kl >= 2"),
        lambda lake: lake.validate(),
    ],
)
def test_session__reads_no_volume(lake, use):
    use(lake)
    assert lake.store.take() == {}


@pytest.mark.usefixtures("nothing_computed")
def test_catalog__reads_no_volume(folder, monkeypatch, judge):
    path = write_catalog(folder / "small.lake")
    opened = []

    def watched(*args, **kwargs):
        opened.append(_watched(ql.open_lake(*args, **kwargs)))
        return opened[-1]

    monkeypatch.setattr("qmri_lake.catalog.open_lake", watched)
    ds = ql.fit_t2(open_catalog(path)(query="kl >= 2", lake_ref="main").msme.read())
    assert ds.sizes["exam"] == 12
    (lake,) = opened
    read = set(lake.store.take(*BULK, "clinical/kl"))
    judge(
        "lazy / catalog, cohort and T2 fit",
        required="nothing computed, no chunk of a volume read",
        measured=f"{len(read - {'clinical/kl/c/0'})} read; the cohort's column: {len(read)}",
        passed=read == {"clinical/kl/c/0"},
    )


def test_compute__of_one_exam_reads_its_own_chunks(lake, judge):
    ds = ql.fit_t2(lake.load("msme"))
    lake.store.take()
    with dask.config.set(scheduler="synchronous"):
        t2 = ds.t2.sel(patient=9000002, timepoint=24, knee="left").compute()
        assert np.isfinite(t2).any()
        read = set(lake.store.take())
        judge(
            f"lazy / T2 of one exam of {EXAMS}",
            required="the chunks of that exam: its image and its mask",
            measured=", ".join(sorted(read)),
            passed=read == {"msme/image/c/7/0/0/0/0", "msme/cartilage/c/7/0/0/0"},
        )
        (ds.image.isel(exam=[3, 11]) * 2).compute()
        assert set(lake.store.take()) == {f"msme/image/c/{row}/0/0/0/0" for row in (3, 11)}
        ds.image.where(ql.inside(ds)).isel(exam=19).mean().compute()
        assert set(lake.store.take()) == {"msme/image/c/19/0/0/0/0"}


def test_compute__of_one_slice_reads_one_inner_chunk(tmp_path):
    """A shard holds several chunks of slices: the bytes that are asked for are those of one."""
    lake = _watched(array_lake(tmp_path / "deep.lake", 2, (32, 12, 10)))
    ds = lake.load("msme", exam="9000001-000m-right")
    lake.store.take()
    ds.image.isel(slice=9).compute(scheduler="synchronous")
    (one,) = lake.store.take().values()
    ds.image.compute(scheduler="synchronous")
    (whole,) = lake.store.take().values()
    assert 0 < one < whole / 4


@pytest.mark.slow
def test_graph__grows_with_the_chosen_exams(lake, tmp_path, judge):
    larger = array_lake(tmp_path / "larger.lake", 3 * EXAMS)
    query = "patient in (9000001, 9000003)"

    def tasks(some_lake, query=query, use=lambda ds: ds):
        ds = use(some_lake.load("msme", query))
        return len(dict(ds.__dask_graph__())), ds.sizes["exam"]

    small, exams = tasks(lake)
    assert exams == 8
    assert tasks(larger) == (small, exams), "a lake three times as large, the same graph"
    assert tasks(larger, None)[0] > 3 * small
    # Two volumes with one task an exam and what leads to it, and six small arrays.
    assert small <= 2 * exams * 2 + 6 * 3
    fitted = tasks(lake, use=ql.fit_t2)[0]
    of_larger = tasks(larger, use=ql.fit_t2)[0]
    judge(
        f"lazy / tasks of a T2 fit of {exams} exams",
        required=f"as many from {3 * EXAMS} exams as from {EXAMS}",
        measured=f"{of_larger} and {fitted}",
        passed=of_larger == fitted,
    )
    twice = tasks(larger, "patient < 9000005", use=ql.fit_t2)[0]
    assert 1.5 < twice / fitted < 2.5
