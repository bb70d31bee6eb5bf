"""What a spherical map says of masks that are odd, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_lake.errors import InputError, NotFoundError, Reason
from qmri_lake.surface import SURFACE_STATUS, spherical_map
from tests.surface.solids import SPACING, ball, grid, places, uneven

RIGHT = {"bone_name": "femur", "knee": "right"}


def test_spherical_map__bad_input_is_an_error_and_never_zeros() -> None:
    affine, shape = grid(25)
    bone, cartilage = ball("femur", 20, 2, affine, shape)
    nothing = np.zeros_like(bone)
    with pytest.raises(InputError, match="no femur"):
        spherical_map(nothing, cartilage, affine, **RIGHT)
    with pytest.raises(InputError, match="no femoral cartilage"):
        spherical_map(bone, nothing, affine, **RIGHT)
    with pytest.raises(InputError, match="no cartilage on the articular side of the tibia"):
        spherical_map(bone, cartilage, affine, bone_name="tibia", knee="right")
    with pytest.raises(InputError, match="spacing of zero"):
        spherical_map(bone, cartilage, np.diag([0.7, 0.0, 0.4, 1.0]), **RIGHT)
    with pytest.raises(InputError, match="an affine with NaN or infinity"):
        spherical_map(bone, cartilage, np.full((4, 4), np.nan), **RIGHT)
    with pytest.raises(InputError, match="an affine of 3 x 4"):
        spherical_map(bone, cartilage, affine[:3], **RIGHT)
    with pytest.raises(InputError, match="on one grid"):
        spherical_map(bone[1:], cartilage, affine, **RIGHT)
    with pytest.raises(InputError, match="knee 'middle'"):
        spherical_map(bone, cartilage, affine, bone_name="femur", knee="middle")
    with pytest.raises(NotFoundError, match="no bone 'fibula'"):
        spherical_map(bone, cartilage, affine, bone_name="fibula", knee="right")
    with pytest.raises(InputError, match="t2 without t2_affine"):
        spherical_map(bone, cartilage, affine, **RIGHT, t2=np.ones(shape))


def test_spherical_map__pieces_are_dropped_counted_and_flagged() -> None:
    affine, shape = grid(28)
    bone, cartilage = ball("femur", 16, 2, affine, shape)
    alone = spherical_map(bone, cartilage, affine, **RIGHT)
    bone[2:4, 2:5, 2:5] = True
    again = spherical_map(bone, cartilage, affine, **RIGHT)
    assert (again.attrs["dropped_pieces"], again.attrs["flag"]) == (1, "")
    np.testing.assert_allclose(again.bone_shape, alone.bone_shape, atol=1e-3)
    p = places(affine, shape)
    bone |= np.linalg.norm(p - [0, 0, 24.5], axis=-1) < 7.5
    assert "in 2 pieces" in spherical_map(bone, cartilage, affine, **RIGHT).attrs["flag"]


def test_spherical_map__labels_are_told_from_masks() -> None:
    affine, shape = grid(25)
    bone, cartilage = ball("tibia", 20, 2, affine, shape)
    wanted = spherical_map(bone, cartilage, affine, bone_name="tibia", knee="right")
    labels, tissue = 2 * bone.astype(np.uint8), 2 * cartilage.astype(np.uint8)
    labels[2:6, 2:6, 2:6], tissue[2:6, 2:6, 6:8] = 1, 1
    for made in ((labels, tissue), (bone.astype(np.uint8), cartilage.astype(np.uint8))):
        found = spherical_map(*made, affine, bone_name="tibia", knee="right")
        assert found.identical(wanted)
    with pytest.raises(InputError, match="no patella"):
        spherical_map(labels, tissue, affine, bone_name="patella", knee="right")
    labels[0] = 255
    with pytest.raises(InputError, match=r"255 \(never segmented\)") as caught:
        spherical_map(labels, tissue, affine, bone_name="tibia", knee="right")
    assert caught.value.reason == Reason.ABSENT_EXAM
    with pytest.raises(InputError, match="float32"):
        spherical_map(bone.astype(np.float32), tissue, affine, bone_name="tibia", knee="right")


def test_spherical_map__inputs_are_not_modified() -> None:
    affine, shape = grid(25)
    given = (*ball("femur", 20, 2, affine, shape), affine)
    before = [array.copy() for array in given]
    spherical_map(*given, bone_name="femur", knee="left")
    for now, then in zip(given, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_spherical_map__a_bone_cut_by_the_field_of_view() -> None:
    affine, shape = grid(34)
    bone, cartilage = uneven(affine, shape)
    whole = spherical_map(bone, cartilage, affine, **RIGHT)
    first = int(np.flatnonzero(bone.any(axis=(1, 2)))[0]) + 12  # slices from its lateral end on
    moved = affine.copy()
    moved[:3, 3] += first * affine[:3, 0]
    found = spherical_map(bone[first:], cartilage[first:], moved, **RIGHT)
    unseen = found.bone_shape.isnull()
    assert f"no surface of the femur in {int(unseen.sum())} pixels" in found.flag
    assert 50 < int(unseen.sum()) < 5000
    assert set(found.azimuth.values[unseen.any("polar")] < 0) == {True}
    assert found.thickness.where(unseen).isnull().all()
    assert (found.surface_status.where(unseen, 3) == SURFACE_STATUS["not_articular"]).all()
    assert "field of view" not in whole.flag


def test_spherical_map__cartilage_elsewhere_is_flagged() -> None:
    affine, shape = grid(28)
    bone, cartilage = ball("femur", 20, 2, affine, shape)
    p = places(affine, shape)
    far = (np.linalg.norm(p, axis=-1) > 24) & (p[..., 2] < -15)
    found = spherical_map(bone, cartilage | far, affine, **RIGHT)
    assert "of the cartilage lies over the surface in the map of the femur" in found.flag
    assert float(found.thickness.max()) < 2.5  # what is not on the bone is not measured


def test_spherical_map__a_sheared_grid_is_refused() -> None:
    affine, shape = grid(25)
    masks = ball("femur", 20, 2, affine, shape)
    sheared = affine.copy()
    sheared[:3, 1] += 0.2 * affine[:3, 0] * SPACING[1] / SPACING[0]
    with pytest.raises(InputError, match="not at right angles"):
        spherical_map(*masks, sheared, **RIGHT)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"method": "ray"}, "method 'ray'"),
        ({"closing": -1.0}, "closing -1"),
        ({"articular": np.ones((9, 9), bool)}, r"articular area of shape \(9, 9\)"),
        ({"axes": np.diag([1, 1, -1])}, "axes"),
        ({"t2": np.ones((3, 3), float), "t2_affine": np.eye(4)}, "t2 of dtype float64"),
        ({"t2": np.ones((3, 3, 3), float), "t2_affine": np.zeros((4, 4))}, "spacing of zero"),
        ({"t2": np.ones((3, 3, 3), float), "t2_affine": np.ones((4, 4))}, "lie in one plane"),
    ],
)
def test_spherical_map__odd_options_are_refused(option: dict[str, object], words: str) -> None:
    affine, shape = grid(14)
    with pytest.raises(InputError, match=words):
        spherical_map(*ball("femur", 10, 2, affine, shape), affine, **RIGHT, **option)
