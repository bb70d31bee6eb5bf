"""T2 maps of a lake: the lazy session function, the step of a run, and that they agree."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, Reason, RunError
from qmri_lake.execution.step import Skip
from qmri_lake.relaxometry import FitStatus, fit_epg, fit_mono_exponential
from qmri_lake.schema.variable import VOLUME_DIMS
from qmri_lake.steps.t2 import t2
from tests.fixtures import ECHO_TIME, array_lake, msme_signal
from tests.relaxometry.signals import EVEN, six_classes

MAPS = ["t2", "t2_error", "s0", "r2", "t2_status"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Six exams, the odd ones a slice smaller; read only."""
    return array_lake(tmp_path_factory.mktemp("t2") / "exams.lake")


@pytest.fixture
def msme(lake):
    return lake.load("msme")


def refuse(*_args, **_options):
    raise AssertionError("something was computed")


def same(a: xr.Dataset, b: xr.Dataset) -> bool:
    return all(np.array_equal(a[name], b[name], equal_nan=name != "t2_status") for name in MAPS)


# -- the session function ------------------------------------------------------------------------


@pytest.mark.parametrize("within", [None, "cartilage", "all"])
def test_fit_t2__is_lazy_and_leaves_its_input_alone(msme, within):
    before = msme.copy()
    with dask.config.set(scheduler=refuse):
        fitted = ql.fit_t2(msme, within=within)
        assert all(fitted[name].chunks is not None for name in MAPS)
    assert list(msme) == list(before)
    assert msme.attrs == before.attrs
    assert set(fitted) == {*msme, *MAPS}
    xr.testing.assert_identical(fitted[list(msme)].compute(), msme.compute())
    with pytest.raises(AssertionError, match="was computed"), dask.config.set(scheduler=refuse):
        fitted.t2.compute()


def test_fit_t2__attributes_and_dims(msme):
    fitted = ql.fit_t2(msme)
    assert [v.name for v in t2.writes] == [*MAPS, "t2_b1"]
    for variable in t2.writes[:-1]:  # the last is of model="epg" alone
        array = fitted[variable.name]
        assert array.dims == ("exam", "slice", "row", "column")
        assert array.dtype == variable.dtype
        assert array.attrs == variable.attributes()
    assert fitted.t2.units == fitted.t2_error.units == "ms"
    assert fitted.t2_status.flag_meanings.split()[fitted.t2_status.flag_values.index(7)] == (
        "poor_fit"
    )
    computed = fitted.t2.isel(exam=[0]).compute()
    assert computed.dtype == np.float32
    assert fitted.sel(patient=9000001, timepoint=0, knee="left").exam == "9000001-000m-left"


@pytest.mark.parametrize("within", ["cartilage", "all"])
def test_fit_t2__equals_the_kernel_exam_by_exam(msme, within):
    fitted = ql.fit_t2(msme, within=within).compute()
    for row in range(6):
        extent = msme.extent[row].values
        slices = extent[0]
        signal, truth = msme_signal(row, tuple(extent))
        labels = msme.cartilage[row, :slices].values
        mask = (labels != 0) if within == "cartilage" else None
        fit = fit_mono_exponential(signal[1:], ECHO_TIME[1:], mask, bounds=(0, 100), r2_min=0.8)
        for name, maps in zip(MAPS, fit, strict=True):
            assert np.array_equal(fitted[name][row, :slices], maps, equal_nan=True)
        inside = np.ones(extent, bool) if mask is None else mask
        np.testing.assert_allclose(fitted.t2[row, :slices].values[inside], truth[inside], rtol=1e-4)
        assert np.isnan(fitted.t2[row, :slices].values[~inside]).all()


def test_fit_t2__beyond_the_extent_is_fill(msme):
    fitted = ql.fit_t2(msme, within="all").compute()
    outside = ~ql.inside(msme).values
    assert outside.sum() == 3 * 12 * 10
    assert (fitted.t2_status.values[outside] == 255).all()
    assert not (fitted.t2_status.values[~outside] == 255).any()
    assert all(np.isnan(fitted[name].values[outside]).all() for name in MAPS[:4])


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [{"slice": slice(None, None, -1)}, {"slice": slice(2, 5)}, {"row": [9, 3, 4]}], ids=str
)
def test_fit_t2__of_selected_voxels_is_the_selection_of_the_fit(msme, part):
    for within in ("cartilage", "all"):
        fitted = ql.fit_t2(msme.isel(part), within=within).compute()
        assert same(fitted, ql.fit_t2(msme, within=within).isel(part).compute())


@pytest.mark.slow
@pytest.mark.parametrize(
    "chunks",
    [{"exam": 3}, {"exam": -1}, {"row": 4}, {"exam": 2, "echo": 3, "slice": 2, "column": 3}],
    ids=str,
)
def test_fit_t2__chunks_are_no_matter(msme, chunks):
    assert same(ql.fit_t2(msme.chunk(chunks)).compute(), ql.fit_t2(msme).compute())


def test_fit_t2__arrays_in_memory_become_lazy(msme):
    fitted = ql.fit_t2(msme.compute())
    assert fitted.t2.chunks[0] == (1,) * 6
    assert same(fitted.compute(), ql.fit_t2(msme).compute())
    none = ql.fit_t2(msme.isel(exam=slice(0, 0)))
    assert none.t2.compute().shape == (0, 5, 12, 10)


def test_fit_t2__one_exam_without_the_axis(msme):
    fitted = ql.fit_t2(msme.isel(exam=2))
    assert fitted.t2.dims == ("slice", "row", "column")
    assert fitted.t2.chunks is not None
    assert same(fitted.compute(), ql.fit_t2(msme).isel(exam=2).compute())
    smaller = ql.fit_t2(msme.isel(exam=3))
    assert same(smaller.compute(), ql.fit_t2(msme).isel(exam=3).compute())


def test_fit_t2__an_exam_with_fewer_echoes(msme):
    ds = msme.compute()
    ds.image[1, 5:] = np.nan
    ds.echo_time[1, 5:] = np.nan
    fitted = ql.fit_t2(ds, within="all").compute()
    signal, _ = msme_signal(1, (4, 12, 10))
    fit = fit_mono_exponential(signal[1:5], ECHO_TIME[1:5], bounds=(0, 100), r2_min=0.8)
    assert np.array_equal(fitted.t2[1, :4], fit.t2, equal_nan=True)
    assert same(fitted.isel(exam=[0, 2]), ql.fit_t2(msme, within="all").isel(exam=[0, 2]).compute())


def test_fit_t2__skips_the_first_echo_unless_told(msme):
    ds = msme.isel(exam=[0]).compute()
    kept = ql.fit_t2(ds, within="all", skip_first_echo=False).compute()
    ds.image[0, 0] *= 0.9
    assert same(
        ql.fit_t2(ds, within="all").compute(),
        ql.fit_t2(msme.isel(exam=[0]), within="all").compute(),
    )
    darker = ql.fit_t2(ds, within="all", skip_first_echo=False).compute()
    assert np.nanmax(darker.t2 / kept.t2) > 1.1
    assert np.nanmin(darker.t2 / kept.t2) > 1.01


def test_fit_t2__bounds_and_r2_min(msme):
    ds = msme.isel(exam=[0])
    fitted = ql.fit_t2(ds, within="all", bounds=(30, 50)).compute()
    _, truth = msme_signal(0, (5, 12, 10))
    expected = np.where((truth > 30) & (truth <= 50), FitStatus.FITTED, FitStatus.OUT_OF_BOUNDS)
    assert np.array_equal(fitted.t2_status[0], expected)
    noisy = ds.compute()
    noisy.image[0] = np.random.default_rng(0).rayleigh(10, noisy.image[0].shape)
    strict = ql.fit_t2(noisy, within="all").compute()
    loose = ql.fit_t2(noisy, within="all", r2_min=None).compute()
    assert (strict.t2_status == FitStatus.POOR_FIT).sum() > 50
    assert not (loose.t2_status == FitStatus.POOR_FIT).any()


def test_fit_t2__within_defaults_to_cartilage_where_there_are_labels(msme):
    assert same(ql.fit_t2(msme).compute(), ql.fit_t2(msme, within="cartilage").compute())
    bare = msme.drop_vars("cartilage")
    assert same(ql.fit_t2(bare).compute(), ql.fit_t2(msme, within="all").compute())


def test_fit_t2__never_segmented_raises_when_computed(msme):
    ds = msme.compute()
    ds.cartilage[2] = 255
    fitted = ql.fit_t2(ds)
    assert np.isfinite(fitted.t2.isel(exam=1).compute()).any()
    with pytest.raises(
        InputError, match=r"t2: no cartilage mask \(expected labels on the MSME grid\)\. Import"
    ) as caught:
        fitted.t2.isel(exam=2).compute()
    assert caught.value.reason == Reason.ABSENT_EXAM
    assert np.isfinite(ql.fit_t2(ds, within="all").t2.isel(exam=2).compute()).any()


def test_fit_t2__never_segmented_voxels_are_outside(msme):
    ds = msme.isel(exam=[0]).compute()
    ds.cartilage[0, 0] = 255
    status = ql.fit_t2(ds).t2_status.compute()
    assert (status[0, 0] == FitStatus.OUTSIDE).all()
    assert (status[0, 1] == FitStatus.FITTED).sum() == 60


def test_fit_t2__one_echo_left_raises_when_computed(msme):
    fitted = ql.fit_t2(msme.isel(echo=slice(0, 2)), within="all")
    with pytest.raises(InputError, match=r"1 echoes \(expected at least two after the first"):
        fitted.t2.compute()


def test_fit_t2__unknown_within(msme):
    with pytest.raises(InputError, match=r"fit_t2: within='bone' \(expected cartilage or all"):
        ql.fit_t2(msme, within="bone")


@pytest.mark.parametrize("name", ["image", "echo_time", "cartilage"])
def test_fit_t2__missing_variable(msme, name):
    with pytest.raises(
        NotFoundError,
        match=rf"no variable '{name}' \(expected image, echo_time, cartilage\). Load group msme",
    ):
        ql.fit_t2(msme.drop_vars(name), within="cartilage")


# -- units and dimensions --------------------------------------------------------------------------


def with_times(ds: xr.Dataset, times, units: str | None, dims=("echo",)) -> xr.Dataset:
    return ds.assign(echo_time=(dims, times, {"units": units} if units else {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "factor"), [("s", 1e-3), ("us", 1e3), ("µs", 1e3), ("ms", 1), ("milliseconds", 1)]
)
def test_fit_t2__reads_the_unit_of_the_echo_times(msme, units, factor):
    expected = ql.fit_t2(msme).t2.values
    shared = with_times(msme, ECHO_TIME * factor, units)
    each = with_times(msme, np.tile(ECHO_TIME * factor, (6, 1)), units, ("exam", "echo"))
    for ds in (shared, each, each.chunk(exam=2)):
        np.testing.assert_allclose(ql.fit_t2(ds).t2, expected, rtol=1e-6)
    assert ql.fit_t2(shared).echo_time.attrs == {"units": units}, "the input is not changed"


@pytest.mark.parametrize(
    ("times", "units", "message"),
    [
        (
            ECHO_TIME,
            None,
            r"echo_time without units \(expected .*ms, s or us\)\. Set the unit.*BIDS",
        ),
        (ECHO_TIME / 1000, None, r"echo_time without units"),
        (ECHO_TIME, "h", r"echo_time with units 'h' \(expected"),
        (ECHO_TIME, "mm", r"echo_time with units 'mm' \(expected"),
        (ECHO_TIME / 1000, "ms", r"up to 0\.07 ms \(expected a last echo between 1 and .*seconds"),
        (ECHO_TIME * 1000, "ms", r"up to 70000 ms .* microseconds, set .*'us'"),
        (ECHO_TIME, "s", r"up to 70000 ms"),
    ],
)
def test_fit_t2__an_unknown_or_wrong_unit_is_refused_at_once(msme, times, units, message):
    with pytest.raises(InputError, match=message), dask.config.set(scheduler=refuse):
        ql.fit_t2(with_times(msme, times, units))


def test_fit_t2__a_wrong_unit_of_lazy_times_raises_when_computed(msme):
    fitted = ql.fit_t2(with_times(msme, ECHO_TIME / 1000, "ms").chunk())
    with pytest.raises(InputError, match=r"echo times up to 0\.07 ms"):
        fitted.t2.compute()


def test_fit_t2__an_echo_without_a_time_between_others_is_refused(msme):
    gap = with_times(msme, np.where(ECHO_TIME == 40, np.nan, ECHO_TIME), "ms")
    with pytest.raises(InputError, match=r"no time of echo 4 of 7 .* ds\.isel\(echo="):
        ql.fit_t2(gap).t2.compute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ds: ds.drop_vars(["slice", "row", "column"]).rename_dims(slice="z", row="y"),
            r"image has the dimensions \(exam, echo, z, y, column\) \(expected echo, slice, row, "
            r"column, in any order.*Name z, y as slice, row: ds\.rename_dims\(z=\.\.\., y=",
        ),
        (
            lambda ds: xr.Dataset(
                {"image": (("echo_time", *VOLUME_DIMS), ds.image[0].data)}
            ).assign(echo_time=("echo_time", ECHO_TIME, {"units": "ms"})),
            r"Name echo_time as echo: ds\.swap_dims\(echo_time='echo'\)",
        ),
        (lambda ds: ds.isel(echo=0), r"image has the dimensions \(exam, slice, row, column\)"),
        (
            lambda ds: ds.assign(echo_time=ds.echo_time.expand_dims(slice=ds.slice)),
            r"echo_time has the dimensions \(slice, exam, echo\) .*Select along slice",
        ),
        (
            lambda ds: ds.assign(image=ds.image.isel(exam=0, drop=True)),
            r"echo_time has the dimensions \(exam, echo\) .*Select along exam",
        ),
    ],
)
def test_fit_t2__other_dimensions_are_named(msme, change, message):
    with pytest.raises(InputError, match=message) as caught:
        ql.fit_t2(change(msme), within="all")
    assert "\n" not in str(caught.value)


def test_fit_t2__dimensions_in_any_order_and_echo_times_as_a_dimension(msme):
    expected = ql.fit_t2(msme, within="all").t2.values
    turned = msme.transpose("column", "slice", "row", "exam", "echo", ...)
    np.testing.assert_array_equal(ql.fit_t2(turned, within="all").t2, expected)
    nifti = xr.Dataset(
        {"image": (("slice", "row", "column", "echo_time"), msme.image[0].values.T.swapaxes(0, 2))},
        coords={"echo_time": ("echo_time", ECHO_TIME / 1000, {"units": "s"})},
    )
    made = ql.fit_t2(nifti.swap_dims(echo_time="echo")).t2
    np.testing.assert_allclose(made, expected[0], rtol=1e-6)


def test_fit_t2__an_array_is_not_a_dataset(msme):
    with pytest.raises(InputError, match=r"a DataArray \(expected a Dataset with image and echo_"):
        ql.fit_t2(msme.image)


# -- the step --------------------------------------------------------------------------------------


def test_t2__run_equals_session(tmp_path, judge):
    lake = array_lake(tmp_path / "run.lake")
    results = [
        lake.run("t2"),
        lake.run("t2", within="all", variant="all"),
        lake.run("t2", within="all", bounds=(30.0, 60.0), r2_min=None, variant="narrow"),
    ]
    assert [result.counts["done"] for result in results] == [6, 6, 6]
    msme = lake.load("msme")
    plain = msme.drop_vars([name for name in msme if str(name).partition("__")[0] in MAPS])
    sessions = {
        "": ql.fit_t2(plain),
        "all": ql.fit_t2(plain, within="all"),
        "narrow": ql.fit_t2(plain, within="all", bounds=(30.0, 60.0), r2_min=None),
    }
    differ = []
    for variant, session in sessions.items():
        for name in MAPS:
            stored = msme[f"{name}__{variant}" if variant else name]
            fitted = session[name]
            assert stored.dtype == fitted.dtype
            assert stored.attrs == fitted.attrs
            if not np.array_equal(stored, fitted, equal_nan=name != "t2_status"):
                differ.append((variant, name))
    judge(
        "T2 / session and run, bitwise identical: cartilage, all, a variant with other parameters",
        required="15 of 15 variables the same",
        measured=f"{15 - len(differ)} of 15",
        passed=not differ,
    )
    assert not lake.validate(deep=True)
    assert lake.run("t2").up_to_date == 6


@pytest.mark.slow
@pytest.mark.parametrize("high", [np.inf, np.float32(60)], ids=["open", "a NumPy number"])
def test_t2__bounds_that_json_does_not_know(tmp_path, high):
    lake = array_lake(tmp_path / "bounds.lake", count=1)
    options = {"within": "all", "bounds": (0, high)}
    assert lake.run("t2", **options).counts["done"] == 1
    assert ql.open_lake(lake.url).run("t2", **options).up_to_date == 1
    session = ql.fit_t2(lake.load("msme")[["image", "echo_time"]], **options)
    assert same(session.compute(), lake.load("msme").compute())
    # Other bounds are other parameters: what is done is stale.
    assert lake.run("t2", within="all", bounds=(0, 50)).counts["done"] == 1


def test_t2__exam_without_cartilage_is_skipped(msme):
    exam = msme.isel(exam=0).compute()
    with pytest.raises(Skip, match="no cartilage on the MSME grid"):
        t2(exam.assign(cartilage=exam.cartilage * 0))
    with pytest.raises(InputError, match="no cartilage mask"):
        t2(exam.assign(cartilage=exam.cartilage * 0 + 255))
    with pytest.raises(InputError, match=r"t2: within='bone' \(expected cartilage or all"):
        t2(exam, within="bone")


def test_t2__reads_no_mask_when_it_fits_all():
    assert t2.inputs({**t2.defaults}) == {"msme": ("image", "echo_time", "cartilage")}
    assert t2.inputs({**t2.defaults, "within": "all"}) == {"msme": ("image", "echo_time")}
    assert t2.needed_steps({**t2.defaults, "within": "all"}) == ("ingest_msme",)


def test_t2__whatever_is_fitted_can_be_stored():
    signal = np.hstack(list(six_classes(EVEN, 2000, seed=9).values()))
    exam = xr.Dataset(
        {
            "image": (("echo", "slice", "row", "column"), signal.reshape(6, 12, 100, 10)),
            "echo_time": ("echo", EVEN),
        }
    )
    maps = t2(exam, within="all", bounds=(0, np.inf), r2_min=None)
    assert np.nanmax(maps["t2"]) > 10_000
    assert set(maps) == set(MAPS)
    for variable in t2.writes[:-1]:
        variable.check(maps[variable.name], "an exam")


# -- extended phase graphs -------------------------------------------------------------------------


def test_fit_t2__epg_equals_the_kernel_and_uses_every_echo(msme):
    with dask.config.set(scheduler=refuse):
        lazy = ql.fit_t2(msme, model="epg")
    assert set(lazy) == {*msme, *MAPS, "t2_b1"}
    assert lazy.t2_b1.attrs == t2.writes[-1].attributes()
    fitted = lazy.compute()
    for row in (0, 1):
        extent = tuple(msme.extent[row].values)
        signal, truth = msme_signal(row, extent)
        mask = msme.cartilage[row, : extent[0]].values != 0
        fit = fit_epg(signal, ECHO_TIME, mask, bounds=(0, 100), r2_min=0.8)
        for name, maps in fit._asdict().items():
            stored = fitted[{"b1": "t2_b1", "status": "t2_status"}.get(name, name)]
            np.testing.assert_allclose(stored[row, : extent[0]], maps, rtol=1e-5)
        # A plain decay is the train of perfect pulses.
        np.testing.assert_allclose(fitted.t2[row, : extent[0]].values[mask], truth[mask], rtol=1e-3)
    assert (fitted.t2_status.values[~ql.inside(msme).values] == 255).all()
    assert ql.fit_t2(msme.isel(exam=slice(0, 0)), model="epg").t2_b1.compute().shape[0] == 0


@pytest.mark.slow
def test_t2__epg_run_equals_session(tmp_path, judge):
    lake = array_lake(tmp_path / "epg.lake", count=2)
    names = [*MAPS, "t2_b1"]
    assert lake.run("t2", model="epg", variant="epg").counts["done"] == 2
    msme = lake.load("msme")
    plain = msme.drop_vars([n for n in msme if str(n).partition("__")[0] in names])
    session = ql.fit_t2(plain, model="epg")
    same = [
        np.array_equal(msme[f"{name}__epg"], session[name], equal_nan=name != "t2_status")
        for name in names
    ]
    judge(
        "T2 / session and run, bitwise identical, model=epg",
        required="6 of 6 variables the same",
        measured=f"{sum(same)} of {len(same)}",
        passed=all(same) and len(same) == 6,
    )
    assert "t2" not in msme
    assert lake.run("t2", model="epg", variant="epg").up_to_date == 2
    # Another model replaces what the first one left, the refocusing too.
    assert lake.run("t2", model="mono", variant="epg").counts["done"] == 2
    after = lake.load("msme").compute()
    assert np.isnan(after["t2_b1__epg"]).all()
    assert np.isfinite(after["t2__epg"]).any()
    assert not lake.validate(deep=True)


def test_fit_t2__epg_of_sinc_pulses_equals_the_kernel(msme):
    pulse = {"window": "hann", "refocusing_width": 1.2}
    with dask.config.set(scheduler=refuse):
        lazy = ql.fit_t2(msme.isel(exam=[0]), model="epg", pulse=pulse)
    fitted = lazy.compute()
    signal, _ = msme_signal(0, (5, 12, 10))
    mask = msme.cartilage[0].values != 0
    fit = fit_epg(signal, ECHO_TIME, mask, bounds=(0, 100), r2_min=0.8, pulse=pulse)
    for name, maps in fit._asdict().items():
        stored = fitted[{"b1": "t2_b1", "status": "t2_status"}.get(name, name)]
        np.testing.assert_allclose(stored[0], maps, rtol=1e-5)
    hard = ql.fit_t2(msme.isel(exam=[0]), model="epg").compute()
    assert np.nanmax(np.abs(hard.t2 - fitted.t2)) > 1


@pytest.mark.slow
def test_t2__sinc_pulses_are_recorded_and_hard_pulses_are_not(tmp_path):
    lake = array_lake(tmp_path / "sinc.lake", count=1)
    assert lake.run("t2", model="epg", variant="epg").counts["done"] == 1
    parameters = list(lake.runs()["parameters"])[-1]
    # As recorded by versions without this parameter, whose results therefore stay up to date.
    assert set(parameters) == {"within", "model", "skip_first_echo", "bounds", "r2_min"}
    assert lake.run("t2", model="epg", variant="epg", pulse="hard").up_to_date == 1
    assert lake.run("t2", model="epg", variant="sinc", pulse="sinc").counts["done"] == 1
    recorded = {"time_bandwidth": 4.0, "window": "hamming", "refocusing_width": 1.0}
    assert list(lake.runs()["parameters"])[-1]["pulse"] == recorded
    # The same pulse in other words is the same; another pulse is stale.
    again = lake.run("t2", model="epg", variant="sinc", pulse={"time_bandwidth": np.int64(4)})
    assert again.up_to_date == 1
    wider = {"refocusing_width": 1.5}
    assert lake.run("t2", model="epg", variant="sinc", pulse=wider).counts["done"] == 1
    msme = lake.load("msme")
    plain = msme[["image", "echo_time", "cartilage", "extent"]]
    session = ql.fit_t2(plain, model="epg", pulse=wider)
    for name in [*MAPS, "t2_b1"]:
        np.testing.assert_array_equal(msme[f"{name}__sinc"], session[name])
    assert not lake.validate(deep=True)


def test_t2__pulses_are_of_epg_alone(msme, tmp_path):
    with pytest.raises(InputError, match=r"fit_t2: pulse='sinc' with model='mono' .*model='epg'"):
        ql.fit_t2(msme, pulse="sinc")
    with pytest.raises(InputError, match=r"pulse='block' \(expected hard, sinc, or a mapping"):
        ql.fit_t2(msme, model="epg", pulse="block")
    lake = array_lake(tmp_path / "refused.lake", count=1)
    with pytest.raises(InputError, match=r"step t2: pulse=\{'window': 'hann'\} with model='mono'"):
        lake.run("t2", pulse={"window": "hann"})
    with pytest.raises(InputError, match=r"window='kaiser' \(expected one of hamming, hann, none"):
        lake.run("t2", model="epg", pulse={"window": "kaiser"})


def test_t2__below_resolution(msme):
    exam = msme.isel(exam=0).compute()
    exam.image[:, 0, 0, 0] = 1000 * np.exp(-ECHO_TIME / 9)
    exam.image[1:, 0, 0, 1] = [300, 0, 0, 0, 0, 0]
    maps = t2(exam, within="all")
    for column in (0, 1):
        assert maps["t2_status"][0, 0, column] == FitStatus.BELOW_RESOLUTION
        assert all(np.isnan(maps[name][0, 0, column]) for name in MAPS[:4])
    # The limit is half the first echo time of the fit: 10 ms, or 5 ms with the first echo.
    assert t2(exam, within="all", skip_first_echo=False)["t2_status"][0, 0, 0] == FitStatus.FITTED
    assert t2(exam, within="all", model="epg")["t2_status"][0, 0, 0] == FitStatus.FITTED
    assert t2(exam, within="all", bounds=(1, 100))["t2"][0, 0, 0] == pytest.approx(9, rel=1e-5)


def test_t2__epg_refuses_what_it_cannot_fit(msme, tmp_path):
    with pytest.raises(InputError, match=r"fit_t2: model='bloch' \(expected mono or epg"):
        ql.fit_t2(msme, model="bloch")
    with pytest.raises(InputError, match="fit_t2: skip_first_echo=True with model='epg'"):
        ql.fit_t2(msme, model="epg", skip_first_echo=True)
    lake = array_lake(tmp_path / "refused.lake", count=1)
    with pytest.raises(RunError, match=r"step t2: model='bloch' \(expected mono or epg"):
        lake.run("t2", model="bloch")
    with pytest.raises(InputError, match="step t2: skip_first_echo=True with"):
        lake.run("t2", model="epg", skip_first_echo=True)
    uneven = msme.isel(exam=[0]).compute()
    uneven.echo_time[0, 3] += 2
    with pytest.raises(InputError, match=r"fit_epg: echo times .* consecutive multiples of"):
        ql.fit_t2(uneven, model="epg").t2.compute()
    with pytest.raises(InputError, match=r"1 echo times \(expected at least three"):
        ql.fit_t2(msme.isel(echo=[0]), model="epg").t2.compute()
