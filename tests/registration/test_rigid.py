"""Where DESS and MSME lie to each other: the rigid refinement, in arrays and in a lake."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import dask
import numpy as np
import pytest
import xarray as xr

import qmri_lake as ql
from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.phantom import exams, write_archive
from qmri_lake.phantom.exam_truth import set_up
from qmri_lake.phantom.render import render_dess, render_msme
from qmri_lake.phantom.sampling import offsets, sample
from qmri_lake.registration import RegistrationStatus, refine_rigid
from qmri_lake.schema.builtin import REGISTRY


@dataclass(frozen=True)
class Pair:
    """Both images of a synthetic knee that moved between them."""

    dess: np.ndarray
    affine: np.ndarray
    msme: np.ndarray
    target_affine: np.ndarray
    labels: np.ndarray
    moved: np.ndarray

    def refined(self):
        return refine_rigid(self.dess, self.affine, self.msme, self.target_affine, self.labels)

    def points(self):
        index = np.argwhere(self.labels)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def errors(self, transform):
        """Displacement error at cartilage, mean and largest, mm; rotation error, degrees."""
        wrong = transform - self.moved
        away = np.linalg.norm(self.points() @ wrong[:3, :3].T + wrong[:3, 3], axis=1)
        turn = transform[:3, :3] @ self.moved[:3, :3].T
        cosine = np.clip((np.trace(turn) - 1) / 2, -1, 1)
        return away.mean(), away.max(), np.degrees(np.arccos(cosine))


def pairs(count, shape):
    for exam in [e for e in exams(3 * count) if e.has_msme][:count]:
        at = set_up(exam, shape)
        lattice = at.lattice(exam.random(30))
        yield Pair(
            render_dess(exam, at, lattice).astype(np.float32),
            at.dess_affine,
            render_msme(exam, at, lattice, model="epg")[0],
            at.msme_affine,
            sample(lattice, at.dess_affine, at.shape, offsets(2, 2, 2)).cartilage,
            at.dess_to_msme,
        )


@pytest.fixture(scope="module")
def knees():
    return list(pairs(2, (64, 144, 144)))


def judge_motion(judge, line, found, required, *, least, mm, degrees):
    good = sum(most <= mm and turn <= degrees for _, most, turn, _ in found)
    mean, most, turn, cpu = np.max(found, axis=0)
    judge(
        f"Registration / {line}",
        required=required,
        measured=f"{good} of {len(found)}; at most {mean:.3f} mm on average over cartilage, "
        f"{most:.3f} mm anywhere in it, {turn:.3f} degrees; at most {cpu:.1f} CPU-seconds per exam",
        passed=good >= least,
    )


def measured(pair):
    start = time.process_time()
    result = pair.refined()
    used = time.process_time() - start
    assert result.status == RegistrationStatus.REFINED
    assert result.after > result.before
    return (*pair.errors(result.transform), used)


def test_refine_rigid__finds_the_motion(knees, judge):
    assert min(pair.errors(np.eye(4))[0] for pair in knees) > 0.5
    judge_motion(
        judge,
        "recovered motion, 64 x 144 x 144",
        [measured(pair) for pair in knees],
        "0.5 mm everywhere in cartilage, 0.5 degrees",
        least=2,
        mm=0.5,
        degrees=0.5,
    )


@pytest.mark.accept
@pytest.mark.timeout(900)
def test_refine_rigid__finds_the_motion_of_twenty_knees(judge):
    judge_motion(
        judge,
        "recovered motion, 80 x 192 x 192",
        [measured(p) for p in pairs(20, (80, 192, 192))],
        "0.3 mm everywhere in cartilage and 0.3 degrees in 19 of 20 exams",
        least=19,
        mm=0.3,
        degrees=0.3,
    )


def test_refine_rigid__same_images_same_bits(knees):
    first, second = knees[0].refined(), knees[0].refined()
    assert np.array_equal(first.transform, second.transform)
    assert (first.before, first.after) == (second.before, second.after)


def test_refine_rigid__is_rigid_and_starts_from_the_scanner(knees):
    """In another world, turned and shifted, the same knee moved the same way."""
    pair = knees[1]
    turn = np.eye(4)
    turn[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    turn[:3, 3] = 30, -7, 200
    there = replace(
        pair,
        affine=turn @ pair.affine,
        target_affine=turn @ pair.target_affine,
        moved=turn @ pair.moved @ np.linalg.inv(turn),
    )
    transform = there.refined().transform
    assert there.errors(transform)[1] < 0.5
    np.testing.assert_allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(transform) == pytest.approx(1)


def test_refine_rigid__shading_does_not_matter(knees):
    pair = knees[0]
    light = np.linspace(0.6, 1.8, pair.dess.shape[2], dtype=np.float32)
    assert replace(pair, dess=pair.dess * light).refined().status == RegistrationStatus.REFINED
    shaded = replace(pair, dess=pair.dess * light, msme=pair.msme * np.float32(3))
    assert pair.errors(shaded.refined().transform)[1] < 0.5


def test_refine_rigid__a_knee_that_moved_too_far_is_said_to(knees):
    pair = knees[0]
    shift = np.eye(4)
    shift[:3, 3] = 11, 0, 0
    far = replace(pair, target_affine=shift @ pair.target_affine, moved=shift @ pair.moved)
    result = far.refined()
    assert far.errors(result.transform)[1] < 0.5
    assert result.status == RegistrationStatus.IMPLAUSIBLE
    assert result.note.startswith(f"{Reason.IMPLAUSIBLE_MOTION}: the knee moved by 1")


def test_refine_rigid__no_improvement_keeps_the_geometry(knees):
    pair = knees[0]
    itself = replace(pair, msme=pair.dess[None], target_affine=pair.affine)
    blank = replace(pair, msme=np.ones_like(pair.msme))
    other = replace(pair, msme=np.random.default_rng(0).random(pair.msme.shape, np.float32))
    for each in (itself, blank, other):
        result = each.refined()
        assert np.array_equal(result.transform, np.eye(4))
        assert result.status == RegistrationStatus.NOT_IMPROVED
        assert result.note.startswith("not registered, the scanner's geometry is used: ")


def test_refine_rigid__too_little_to_compare(knees):
    pair = knees[0]
    flat = replace(pair, msme=pair.msme[:, 10:13])
    assert "fewer than 4 voxels" in flat.refined().note
    far = np.diag([3.5, 1, 1, 1.0])
    far[:3, 3] = 1000
    assert replace(pair, target_affine=far).refined().status == RegistrationStatus.NOT_IMPROVED
    nothing = replace(pair, labels=np.zeros_like(pair.labels)).refined()
    assert (nothing.status, nothing.note) == (RegistrationStatus.NOT_IMPROVED, "")


def test_refine_rigid__absent_echoes_are_left_out(knees):
    pair = knees[0]
    padded = np.concatenate([pair.msme, np.full_like(pair.msme[:2], np.nan)])
    assert np.array_equal(replace(pair, msme=padded).refined().transform, pair.refined().transform)


@pytest.mark.parametrize("name", ["dess", "msme"])
def test_refine_rigid__no_image_is_refused(knees, name):
    absent = replace(knees[0], **{name: np.full_like(getattr(knees[0], name), np.nan)})
    with pytest.raises(
        InputError, match=f"the {name.upper()} image is missing.*method='scanner'"
    ) as caught:
        absent.refined()
    assert caught.value.reason == Reason.ABSENT_EXAM


# -- a lake --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("rigid") / "a", exams=2, shape=(40, 96, 96))


@pytest.fixture(scope="module")
def lake(archive):
    """Two small knees whose DESS was segmented."""
    lake = ql.ingest(archive.path, str(archive.path.parent / "l.lake")).lake
    ql.ingest_masks(archive.truth, lake, labels="qmri-lake", into="mask")
    return lake.refresh()


@pytest.fixture
def both(lake):
    return lake.load("dess"), lake.load("msme")


def test_register__run_equals_session(lake, both):
    dess, msme = both

    def refuse(*_args, **_options):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        session = ql.register(dess, msme)
    made = [name for name in session if name not in msme]
    result = lake.run("register")
    assert result.counts["done"] == 2
    stored = lake.load("msme")
    session = session.compute()
    for name in made:
        xr.testing.assert_identical(stored[name].compute(), session[name])
    assert (session.registration_status == RegistrationStatus.REFINED).all()
    assert (session.mutual_information_after > session.mutual_information_before).all()
    assert lake.run("register").up_to_date == 2


def test_registration_status__is_what_lakes_call_it():
    names = {status.name.lower(): status.value for status in RegistrationStatus}
    assert REGISTRY["msme/registration_status"].flags == names


def test_register__chunks_are_no_matter(both):
    dess, msme = both
    one, two = (
        ql.register(dess.chunk(c), msme.chunk(c)).dess_to_msme.compute()
        for c in ({"exam": 1, "row": 20}, {"exam": -1})
    )
    assert np.array_equal(one, two)
    alone = ql.register(dess.isel(exam=1), msme.isel(exam=1)).dess_to_msme
    assert np.array_equal(alone, one[1])


def test_register__masks_without_an_image_wait_for_it(archive, tmp_path):
    path = archive.truth / f"{archive.exams[0]}.npz"
    whose = {"patient": 9000001, "timepoint": 0, "knee": "right"}
    lake = ql.ingest_masks(path, tmp_path / "l.lake", labels="qmri-lake", into="mask", **whose).lake
    assert lake.run("register").waiting == {"ingest_dess": 1}


def test_register__part_of_the_msme_is_refused(both):
    dess, msme = both
    with pytest.raises(
        InputError, match=r"a part of the MSME along slice.*or use method='scanner'"
    ):
        ql.register(dess, msme.isel(slice=slice(3, 9)))
    with pytest.raises(InputError, match=r"a part of the MSME \(expected whole volumes"):
        ql.register(dess, msme.isel(slice=slice(0, 9))).dess_to_msme.compute()


@pytest.mark.parametrize("group", ["dess", "msme"])
def test_register__without_images_says_so(both, group):
    pair = dict(zip(("dess", "msme"), both, strict=True))
    pair[group] = pair[group].drop_vars("image")
    with pytest.raises(NotFoundError, match=f"no variable 'image' in {group}"):
        ql.register(pair["dess"], pair["msme"])
    with_geometry = ql.register(both[0].drop_vars("image"), both[1], method="scanner")
    assert (with_geometry.registration_status == RegistrationStatus.SCANNER).all()
