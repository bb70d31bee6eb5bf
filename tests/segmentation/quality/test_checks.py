"""Checks of masks: the side of the knee from the anatomy, and reasons to flag a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qmri_lake as ql
from qmri_lake.errors import InputError
from qmri_lake.phantom import exams, knee
from qmri_lake.phantom.exam_truth import set_up
from qmri_lake.phantom.pose import rotation
from qmri_lake.phantom.sampling import offsets, sample
from qmri_lake.segmentation.quality.checks import VOLUME_MM3, check_mask, side_from_anatomy
from qmri_lake.store.arrays import open_root
from qmri_lake.store.repository import commit
from qmri_lake.store.runs import read_runs, write_run
from qmri_lake.tissues import BONE, CARTILAGE
from tests.masks.writers import write_nifti

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
OTHER = {"left": "right", "right": "left"}


@pytest.fixture(scope="module")
def truth():
    return knee(exams(1)[0])


@pytest.fixture(scope="module")
def real_knee(real_data: Path):
    """A real right knee: (bone, cartilage, affine to LPS mm)."""
    import nrrd

    labels, header = nrrd.read(str(real_data / "knee_segmentation" / "right_knee_labels.nrrd"))
    assert header["space"] == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"]).T
    affine[:3, 3] = header["space origin"]
    bone, cartilage = (
        np.array(table, np.uint8)[np.ascontiguousarray(labels)]
        # 0, cartilage (femoral, medial, lateral tibial, patellar), bones, fibula, menisci
        for table in ([0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0], [0, 1, 2, 2, 3, 0, 0, 0, 0, 4, 4])
    )
    return bone, cartilage, affine


# -- side ----------------------------------------------------------------------------------------


def test_side_from_anatomy__a_real_right_knee(real_knee, judge):
    bone, cartilage, affine = real_knee
    answers = {
        "as it is": side_from_anatomy(bone, cartilage, affine),
        "voxels mirrored": side_from_anatomy(bone[:, :, ::-1], cartilage[:, :, ::-1], affine),
        "affine mirrored": side_from_anatomy(bone, cartilage, MIRROR @ affine),
    }
    judge(
        "Masks / side of a real knee, from its anatomy",
        required="right; left when its voxels or its affine are mirrored; margins >= 0.5",
        measured=", ".join(f"{k}: {s.knee}, {s.margin:.2f}" for k, s in answers.items()),
        passed=[s.knee for s in answers.values()] == ["right", "left", "left"]
        and min(s.margin for s in answers.values()) >= 0.5,
    )


@pytest.mark.parametrize(
    "turn",
    [
        rotation(x=20),
        rotation(x=-20),
        rotation(y=10),
        rotation(y=-10),
        rotation(z=25),
        rotation(z=-25),
    ],
    ids=["flexed", "extended", "leaning out", "leaning in", "turned in", "turned out"],
)
def test_side_from_anatomy__turned_legs(real_knee, turn):
    bone, cartilage, affine = real_knee
    found = side_from_anatomy(bone[::2, ::2, ::2], cartilage[::2, ::2, ::2], turn @ thinned(affine))
    assert found.knee == "right"
    assert found.margin > 0.7


def thinned(affine):
    return affine @ np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.mark.parametrize(("axis", "end"), [(1, 0), (1, 1), (2, 0), (2, 1), (0, 1)])
def test_side_from_anatomy__smaller_fields_of_view(real_knee, axis, end):
    bone, cartilage, affine = (*(labels[::2, ::2, ::2] for labels in real_knee[:2]), real_knee[2])
    step = np.linalg.norm(thinned(affine)[:3, axis])
    found = np.flatnonzero((bone > 0).any(axis=tuple({0, 1, 2} - {axis})))
    cut = int(12 / step)
    keep = slice(found[0] + cut, None) if end == 0 else slice(0, found[-1] - cut)
    index = tuple(keep if a == axis else slice(None) for a in range(3))
    shift = np.eye(4)
    shift[axis, 3] = keep.start or 0
    side = side_from_anatomy(bone[index], cartilage[index], thinned(affine) @ shift)
    assert side.knee == "right"
    assert side.margin > 0.5


def sides(count: int) -> list[tuple[str, str | None, float]]:
    """(true side, found side, margin) of phantom knees and of their mirror images."""
    found = []
    for exam in exams(count):
        # The DESS labels of `knee`, without what else it computes.
        at = set_up(exam, (64, 144, 144))
        labels = sample(at.lattice(), at.dess_affine, at.shape, offsets(2, 2, 2))
        for mirror, side in ((np.eye(4), exam.side), (MIRROR, OTHER[exam.side])):
            answer = side_from_anatomy(labels.bone, labels.cartilage, mirror @ at.dess_affine)
            found.append((side, answer.knee, answer.margin))
    return found


def judge_sides(judge, count: int) -> None:
    found = sides(count)
    wrong = sum(side != answer for side, answer, _ in found)
    least = min(margin for _, _, margin in found)
    judge(
        f"Masks / side of {count} synthetic knees, and of their mirror images",
        required=f"0 of {2 * count} wrong or undecided; margins >= 0.4",
        measured=f"{wrong} wrong; least margin {least:.2f}",
        passed=wrong == 0 and least >= 0.4,
    )


@pytest.mark.accept
def test_side_from_anatomy__twelve_knees(judge):
    judge_sides(judge, 12)


@pytest.mark.accept
def test_side_from_anatomy__sixty_knees(judge):
    judge_sides(judge, 60)


@pytest.mark.parametrize("name", ["femur", "tibia", "patella", "femoral", "tibial"])
def test_side_from_anatomy__is_undecided_without_a_structure(truth, name):
    bone, cartilage = truth.dess_bone.copy(), truth.dess_cartilage.copy()
    labels, value = (bone, BONE[name]) if name in BONE else (cartilage, CARTILAGE[name])
    labels[labels == value] = 0
    side = side_from_anatomy(bone, cartilage, truth.dess_affine)
    assert side.knee is None
    assert side.reason == f"{name} absent or too small"
    assert np.isnan(side.margin)


ZIB = ("femur", "tibia", "femoral", "tibial")
"""Bones and tissues of OAI-ZIB, which has no patella and no meniscus."""


def only(tissues, bone, cartilage):
    """Return both masks with the given tissues only."""
    return tuple(
        np.where(
            np.isin(labels, [flags[name] for name in tissues if name in flags]), labels, 0
        ).astype(np.uint8)
        for labels, flags in ((bone, BONE), (cartilage, CARTILAGE))
    )


DECIDED = (ZIB, ("femur", "tibia", "tibial", "meniscus"), ("femur", "tibia", "patella", "femoral"))
"""Tissues of sources from which the side of a knee can be inferred."""
SOMETIMES = (("femur", "tibia", "patella"), ("femur", "tibia", "femoral"))
"""Tissues of sources from which the side of some knees is undecided."""


def judge_sources(judge, count: int) -> None:
    found = []
    for exam in exams(count):
        at = set_up(exam, (64, 144, 144))
        labels = sample(at.lattice(), at.dess_affine, at.shape, offsets(2, 2, 2))
        for mirror, side in ((np.eye(4), exam.side), (MIRROR, OTHER[exam.side])):
            for tissues in (*DECIDED, *SOMETIMES):
                masks = only(tissues, labels.bone, labels.cartilage)
                answer = side_from_anatomy(*masks, mirror @ at.dess_affine, tissues=tissues)
                found.append((tissues in DECIDED, side, answer))
    wrong = sum(answer.knee not in (None, side) for _, side, answer in found)
    undecided = [one for one in found if one[2].knee is None]
    assert all(answer.insufficient for _, _, answer in undecided)
    of_decided = sum(decided for decided, *_ in undecided)
    judge(
        f"Masks / side of {count} synthetic knees of five sources without some tissues, mirrored",
        required=f"0 of {len(found)} wrong; none undecided with tibial cartilage, or with a patella"
        " and femoral cartilage",
        measured=f"{wrong} wrong; {of_decided} undecided; {len(undecided) - of_decided} of "
        f"{4 * count} with a patella or femoral cartilage only",
        passed=wrong == 0 and of_decided == 0,
    )


def test_side_from_anatomy__three_knees_of_sources_without_some_tissues(judge):
    judge_sources(judge, 3)


@pytest.mark.accept
@pytest.mark.timeout(1800)
def test_side_from_anatomy__sixty_knees_of_sources_without_some_tissues(judge):
    judge_sources(judge, 60)


def test_check_mask__a_real_knee_as_oai_zib_labels_it(real_knee, judge):
    bone, cartilage, affine = real_knee
    masks = only(ZIB, bone, cartilage)
    named = dict(zip(("bone", "cartilage"), masks, strict=True))
    all_tissues = check_mask(affine, "right", **named)
    odd = check_mask(affine, "right", **named, tissues=ZIB)
    side = side_from_anatomy(*masks, affine, tissues=ZIB)
    mirrored = check_mask(MIRROR @ affine, "right", **named, tissues=ZIB)
    judge(
        "Masks / a real knee with the tissues of OAI-ZIB",
        required="not flagged; right, margin >= 0.5; flagged when mirrored",
        measured=f"{len(odd)} flags, {len(all_tissues)} if all tissues are judged; {side.knee}, "
        f"{side.margin:.2f}; {'; '.join(mirrored)}",
        passed=not odd
        and (side.knee, side.margin >= 0.5) == ("right", True)
        and [reason[:22] for reason in mirrored] == ["anatomy of a left knee"],
    )


@pytest.mark.parametrize(
    ("tissues", "reason"),
    [
        (("femoral", "tibial", "patellar", "meniscus"), "the masks have no femur and no tibia"),
        (("femur", "femoral", "tibial"), "the masks have no tibia"),
        (("femur", "tibia"), "the masks have none of tibial, femoral, patella"),
    ],
)
def test_check_mask__too_few_tissues_for_a_side_are_not_implausible(truth, tissues, reason):
    bone, cartilage = only(tissues, truth.dess_bone, truth.dess_cartilage)
    side = side_from_anatomy(bone, cartilage, truth.dess_affine, tissues=tissues)
    assert (side.knee, side.reason, side.insufficient) == (None, reason, True)
    # Nor is the side of a mirrored knee.
    for world in (np.eye(4), MIRROR):
        affine = world @ truth.dess_affine
        masks = {"bone": bone, "cartilage": cartilage}
        assert check_mask(affine, "right", **masks, tissues=tissues) == []


@pytest.mark.parametrize("name", ZIB)
def test_check_mask__judges_an_absent_tissue_that_the_source_can_have(truth, name):
    rest = [other for other in ZIB if other != name]
    bone, cartilage = only(rest, truth.dess_bone, truth.dess_cartilage)
    odd = check_mask(truth.dess_affine, "right", bone=bone, cartilage=cartilage, tissues=ZIB)
    assert odd == [f"no {name}", f"side cannot be inferred: {name} absent or too small"]


def test_side_from_anatomy__does_not_depend_on_menisci(truth):
    bare = np.where(truth.dess_cartilage == CARTILAGE["meniscus"], 0, truth.dess_cartilage)
    assert side_from_anatomy(
        truth.dess_bone, bare.astype(np.uint8), truth.dess_affine
    ) == side_from_anatomy(truth.dess_bone, truth.dess_cartilage, truth.dess_affine)


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (np.diag([1.0, 1, -1, 1]), "the femur is not above the tibia"),
        (np.diag([1.0, -1, 1, 1]), "the patella is not in front of the femur"),
    ],
)
def test_side_from_anatomy__is_undecided_if_bones_are_misplaced(truth, world, reason):
    side = side_from_anatomy(truth.dess_bone, truth.dess_cartilage, world @ truth.dess_affine)
    assert (side.knee, side.reason) == (None, reason)


def test_side_from_anatomy__is_undecided_for_a_symmetric_knee(truth):
    # The knee and its mirror image, laid over each other.
    bone = np.maximum(truth.dess_bone, truth.dess_bone[::-1])
    cartilage = np.maximum(truth.dess_cartilage, truth.dess_cartilage[::-1])
    straight = np.diag([*np.linalg.norm(truth.dess_affine[:3, :3], axis=0), 1.0])
    affine = np.eye(4)[[0, 2, 1, 3]] @ straight
    affine[2] *= -1  # rows run down
    side = side_from_anatomy(bone, cartilage, affine)
    assert (side.knee, side.reason) == (None, "the anatomical features contradict each other")


# -- what is odd ---------------------------------------------------------------------------------


def test_check_mask__does_not_flag_typical_knees(real_knee):
    bone, cartilage, affine = real_knee
    assert check_mask(affine, "right", bone=bone, cartilage=cartilage) == []


def test_check_mask__flags_of_synthetic_knees_are_justified():
    for exam in exams(8)[::2]:
        truth = knee(exam)
        odd = check_mask(
            truth.dess_affine, exam.side, bone=truth.dess_bone, cartilage=truth.dess_cartilage
        )
        assert odd == []


def test_check_mask__flags_the_other_side(truth):
    odd = check_mask(
        MIRROR @ truth.dess_affine, "right", bone=truth.dess_bone, cartilage=truth.dess_cartilage
    )
    assert len(odd) == 1
    assert odd[0].startswith("anatomy of a left knee (margin ")
    assert odd[0].endswith("but stored as a right knee")
    # With one mask, or without a side, nothing can be compared.
    for options in ({"bone": truth.dess_bone}, {"cartilage": truth.dess_cartilage}):
        assert check_mask(MIRROR @ truth.dess_affine, "right", **options) == []


def test_check_mask__absent_tissues(truth):
    bone = np.where(truth.dess_bone == BONE["patella"], 0, truth.dess_bone).astype(np.uint8)
    odd = check_mask(truth.dess_affine, "right", bone=bone, cartilage=truth.dess_cartilage)
    assert odd == ["no patella", "side cannot be inferred: patella absent or too small"]
    empty = np.zeros_like(bone)
    assert check_mask(truth.dess_affine, cartilage=empty) == [
        "no femoral",
        "no tibial",
        "no patellar",
        "no meniscus",
    ]


def test_check_mask__volumes(truth):
    half = truth.dess_affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    odd = check_mask(half, bone=truth.dess_bone)
    assert [reason.split()[0] for reason in odd] == ["femur", "tibia", "patella"]
    volume = (truth.dess_bone == 1).sum() * abs(np.linalg.det(half[:3, :3]))
    assert odd[0] == f"femur of {volume / 1000:.3g} ml, expected 50 to 450 ml"
    assert set(VOLUME_MM3) == {*BONE, *CARTILAGE} - {"background"}


def test_check_mask__pieces(truth):
    bone = truth.dess_bone.copy()
    middle = np.argwhere(bone == BONE["femur"]).mean(axis=0).astype(int)
    bone[middle[0]] = np.where(bone[middle[0]] == BONE["femur"], 0, bone[middle[0]])
    assert check_mask(truth.dess_affine, bone=bone) == ["femur in 2 large pieces"]


def test_check_mask__cut_by_the_field_of_view(truth):
    # Slices run from the patient's left to the right; the shafts may leave above and below.
    bone = truth.dess_bone
    first = np.flatnonzero((bone == BONE["femur"]).any(axis=(1, 2)))[0]
    side = "left" if truth.dess_affine[0, 0] < 0 else "right"
    odd = check_mask(truth.dess_affine, bone=bone[first + 3 :])
    assert f"femur cut by the field of view: {side}" in odd
    rows = np.flatnonzero((bone == BONE["patella"]).any(axis=(0, 2)))
    odd = check_mask(truth.dess_affine, bone=bone[:, (rows[0] + rows[-1]) // 2 :])
    assert "patella cut by the field of view: above" in odd
    assert not any(reason.startswith("femur cut") for reason in odd)


def test_check_mask__rejects_voxels_that_were_not_segmented(truth):
    with pytest.raises(InputError, match="check_mask: voxels that are 255"):
        check_mask(truth.dess_affine, bone=np.full((3, 3, 3), 255, np.uint8))


# -- the step ------------------------------------------------------------------------------------


def test_check_masks__of_masks_without_an_image(truth, tmp_path):
    key = exams(1)[0]
    whose = {"patient": 9000001, "timepoint": 0, "knee": key.side}
    arrays = {name: getattr(truth, name) for name in ("dess_bone", "dess_cartilage", "dess_affine")}
    np.savez(tmp_path / "masks.npz", **arrays)
    lake = ql.ingest_masks(
        tmp_path / "masks.npz", tmp_path / "l.lake", labels="qmri-lake", into="mask", **whose
    ).lake
    assert len(lake.cohort().require("dess/image")) == 0
    result = lake.run("check_masks")
    assert (result.failed, result.waiting, sum(result.counts.values())) == (0, {}, 1)
    assert lake.load("dess", **whose).anatomical_knee.values.tolist() == [key.side]
    assert lake.run("check_masks").up_to_date == 1
    # As of any exam that has no multi-echo series.
    assert lake.run("register", method="scanner").waiting == {"ingest_msme": 1}


ALL = "1=femur,2=tibia,3=patella,11=femoral,12=tibial,13=patellar,14=meniscus"


def imported(truth, folder, labels, tissues):
    """Import the masks of a knee with some tissues into a new lake, by a table of labels."""
    folder.mkdir()
    bone, cartilage = only(tissues, truth.dess_bone, truth.dess_cartilage)
    numbers = np.where(cartilage > 0, cartilage + 10, bone).astype(np.uint8)
    file = write_nifti(folder / "mask.nii.gz", numbers, truth.dess_affine)
    whose = {"patient": 9000001, "timepoint": 0, "knee": exams(1)[0].side}
    return ql.ingest_masks(file, folder / "l.lake", labels=labels, into="mask", **whose).lake


def test_check_masks__judges_only_tissues_of_the_table_of_labels(truth, tmp_path):
    lake = imported(truth, tmp_path / "a", "1=femur,2=tibia,11=femoral,12=tibial", ZIB)
    assert lake.run("check_masks").counts["done"] == 1
    dess = lake.load("dess")
    assert dess.checked_tissues.values.tolist() == ["femur, tibia, femoral, tibial"]
    assert dess.anatomical_knee.values.tolist() == [exams(1)[0].side]
    assert dess.anatomical_reason.values.tolist() == [""]
    # The same masks by a table with all tissues: a patella and menisci are missing.
    whole = imported(truth, tmp_path / "b", ALL, ZIB)
    assert whole.run("check_masks").counts["flagged"] == 1
    message = whole.failures("check_masks")["message"].item()
    assert message.startswith("no patella; no patellar; no meniscus; side cannot be inferred")


def test_check_masks__gives_the_reason_of_an_undecided_side(truth, tmp_path):
    labels = "1=femur,13=patellar"
    lake = imported(truth, tmp_path / "a", labels, ("femur", "patellar"))
    assert lake.run("check_masks").counts["done"] == 1
    dess = lake.load("dess")
    assert dess.anatomical_knee.values.tolist() == [""]
    assert dess.anatomical_reason.values.tolist() == ["the masks have no tibia"]
    assert dess.checked_tissues.values.tolist() == ["femur, patellar"]


def test_check_masks__judges_all_tissues_of_an_unknown_source(truth, tmp_path):
    """Runs of earlier versions do not record the table of labels of imported masks."""
    lake = imported(truth, tmp_path / "a", "1=femur,2=tibia,11=femoral,12=tibial", ZIB)

    def forget(session):
        root = open_root(session.store, "r+")
        (number,) = read_runs(root)
        write_run(root, number, {**read_runs(root)[number], "parameters": {}})

    commit(lake.repo, forget, "Forget the table of labels")
    lake.refresh()
    assert lake.run("check_masks").counts["flagged"] == 1
    message = lake.failures("check_masks")["message"].item()
    assert message.startswith("no patella; no patellar; no meniscus; side cannot be inferred")
    expected = [name for flags in (BONE, CARTILAGE) for name in flags if name != "background"]
    assert lake.load("dess").checked_tissues.values.tolist() == [", ".join(expected)]
