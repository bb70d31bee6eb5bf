"""Damaged mask files: what a checksum, a length or a header can tell is refused, by its reason."""

from __future__ import annotations

import gzip
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from qmri_lake.errors import InputError, Reason
from qmri_lake.masks.files import read_mask
from qmri_lake.masks.grids import ExamGrid
from tests.masks.writers import (
    SHAPE,
    affine_of,
    label_map,
    write_imorphics,
    write_iwoai,
    write_meta_image,
    write_nifti,
    write_nrrd,
)

RIGHT = ExamGrid(SHAPE, affine_of("right"), "right")
LABELS = label_map()
SIX = label_map(numbers=(1, 2, 3, 4, 5, 6))


def write_npz(path: Path) -> Path:
    bone = np.where(LABELS < 4, LABELS, 0)
    np.savez_compressed(path, dess_bone=bone, dess_affine=RIGHT.affine)
    return path


def write_mat(path: Path) -> Path:
    write_imorphics(path, SIX)
    savemat(path, {"datastruct": loadmat(path)["datastruct"]}, do_compression=True)
    return path


def write_packed_hdf5(path: Path) -> Path:
    write_iwoai(path, SIX)
    with h5py.File(path, "r+") as file:
        channels = file["data"][()]
        del file["data"]
        file.create_dataset("data", data=channels, chunks=channels.shape, compression="gzip")
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.nii.gz": lambda path: write_nifti(path, LABELS, RIGHT.affine),
    "a.nii": lambda path: write_nifti(path, LABELS, RIGHT.affine),
    "a.nrrd": lambda path: write_nrrd(path, LABELS, RIGHT.affine),
    "raw.nrrd": lambda path: write_nrrd(path, LABELS, RIGHT.affine, encoding="raw"),
    "bzip2.nrrd": lambda path: write_nrrd(path, LABELS, RIGHT.affine, encoding="bzip2"),
    "a.mha": lambda path: write_meta_image(path, LABELS, RIGHT.affine),
    "raw.mha": lambda path: write_meta_image(path, LABELS, RIGHT.affine, packed=False),
    "a.npz": write_npz,
    "a.mat": write_mat,
    "a.seg": write_packed_hdf5,
}
CHECKED = ("a.nii.gz", "a.nrrd", "bzip2.nrrd", "a.mha", "a.npz", "a.mat")
"""Files whose values have a checksum."""


def reason_of(path: Path) -> Reason | None:
    with pytest.raises(InputError) as caught:
        read_mask(path, like=RIGHT)
    error = caught.value
    assert "\n" not in str(error)
    assert str(path.parent) not in error.found + error.expected + error.todo
    return error.reason


@pytest.mark.parametrize("name", WRITERS)
def test_read_mask__a_cut_file_is_never_read(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 24).astype(int):
        path.write_bytes(whole[:length])
        # Of a short piece, the format cannot be recognised.
        assert reason_of(path) in (Reason.TRUNCATED_FILE, Reason.UNREADABLE_FILE)
    path.write_bytes(whole[:-1])
    assert reason_of(path) == Reason.TRUNCATED_FILE


@pytest.mark.parametrize("name", WRITERS)
def test_read_mask__bytes_after_the_end_are_refused(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    path.write_bytes(path.read_bytes() + b"appended by a transfer")
    assert reason_of(path) in (
        (Reason.TRUNCATED_FILE,) if name == "a.mat" else (Reason.TRAILING_BYTES,)
    )


@pytest.mark.parametrize("name", CHECKED)
def test_read_mask__no_flipped_bit_is_silent(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    whole, expected = path.read_bytes(), read_mask(path, like=RIGHT).labels
    reasons: list[Reason | None] = []
    for seed in range(60):
        rng = random.Random(seed)
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_mask(path, like=RIGHT).labels, expected)
        except InputError as error:
            reasons.append(error.reason)
    assert Reason.CHECKSUM_MISMATCH in reasons


def test_read_mask__a_wrong_checksum_alone_is_refused(tmp_path: Path) -> None:
    path = WRITERS["a.nii.gz"](tmp_path / "a.nii.gz")
    damaged = bytearray(path.read_bytes())
    damaged[-8] ^= 1  # of the CRC; all values are intact
    path.write_bytes(damaged)
    assert reason_of(path) == Reason.CHECKSUM_MISMATCH
    packed = tmp_path / "a.npz"
    np.savez(packed, dess_bone=LABELS % 4, dess_affine=RIGHT.affine)
    damaged = bytearray(packed.read_bytes())
    damaged[300] ^= 1  # a label, stored without compression
    packed.write_bytes(damaged)
    assert reason_of(packed) == Reason.CHECKSUM_MISMATCH


def test_read_mask__several_gzip_members_are_one_file(tmp_path: Path) -> None:
    """Parallel compressors write such files."""
    content = WRITERS["a.nii"](tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.nii.gz", like=RIGHT).labels, LABELS)


def test_read_mask__the_content_determines_the_format(tmp_path: Path) -> None:
    packed = WRITERS["a.nii.gz"](tmp_path / "a.nii.gz").read_bytes()
    plain = gzip.decompress(packed)
    nrrd = WRITERS["a.nrrd"](tmp_path / "a.nrrd").read_bytes()
    for name, content in (
        ("packed.nii", packed),
        ("plain.nii.gz", plain),
        ("a.nii (1).gz", packed),
        ("nrrd.nii.gz", nrrd),
        ("packed.nrrd", gzip.compress(nrrd)),
    ):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_mask(tmp_path / name, like=RIGHT).labels, LABELS)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "the file is empty"),
        (bytes(900), "zeros"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "a web page or XML"),
        (b'{"message": "quota"}', "JSON"),
        (bytes(128) + b"DICM" + bytes(900), "DICOM"),
        (gzip.compress(bytes(900), mtime=0), "compressed data that is neither NIfTI nor NRRD"),
    ],
)
def test_read_mask__another_content_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=f"unknown file format: {found}") as caught:
        read_mask(tmp_path / "a.nii.gz")
    assert caught.value.reason == Reason.UNREADABLE_FILE


def test_read_mask__a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    header = nibabel.Nifti1Image(LABELS, RIGHT.affine).to_bytes()[:352]
    huge = bytearray(header)
    huge[42:48] = np.array([32767] * 3, "<i2").tobytes()
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(bytes(huge) + bytes(1000)))
    assert reason_of(tmp_path / "huge.nii.gz") == Reason.OVERSIZED_MASK
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header + bytes(2**24), 1))
    assert reason_of(tmp_path / "bomb.nii.gz") == Reason.TRAILING_BYTES
    path = WRITERS["a.npz"](tmp_path / "a.npz")
    content = path.read_bytes()
    at = content.rfind(b"PK\1\2") + 24  # uncompressed size, in the directory
    path.write_bytes(content[:at] + b"\xf0\xff\xff\xff" + content[at + 4 :])
    assert reason_of(path) == Reason.OVERSIZED_MASK


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (40, b"\3\0\6\0\x09\0\7\0", Reason.TRUNCATED_FILE),  # dim: one row less than 8
        (40, b"\3\0\6\0\x09\0\x09\0", Reason.TRUNCATED_FILE),
        (40, b"\3\0\6\0\x09\0\0\0", Reason.UNREADABLE_FILE),
        (70, b"\4\0", Reason.UNREADABLE_FILE),  # datatype int16, bitpix 8
        (72, b"\x20\0", Reason.UNREADABLE_FILE),  # bitpix 32, datatype uint8
        (123, b"\4", Reason.UNREADABLE_FILE),  # an unknown unit
        (254, b"\x09\0", Reason.UNREADABLE_FILE),  # an unknown sform code
        (254, b"\0\0", Reason.GRID_MISMATCH),  # no sform, no qform
        (344, b"ni1\0", Reason.UNREADABLE_FILE),  # the values are in another file
    ],
)
def test_read_mask__a_nifti_header_that_contradicts_itself(
    tmp_path: Path, at: int, value: bytes, reason: Reason
) -> None:
    path = WRITERS["a.nii"](tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    expected = Reason.TRAILING_BYTES if value.endswith(b"\7\0") else reason
    assert reason_of(path) == expected


# -- HDF5, .npz and MATLAB -----------------------------------------------------------------------


def test_read_mask__parts_of_hdf5_that_were_never_written(tmp_path: Path) -> None:
    """A library returns them as 0, which would be background."""
    channels = np.stack([SIX == number for number in range(1, 7)], axis=-1).transpose(1, 2, 0, 3)
    with h5py.File(tmp_path / "a.seg", "w") as file:
        data = file.create_dataset("data", channels.shape, "uint8", chunks=(9, 8, 1, 6))
        data[:, :, :3] = channels[:, :, :3]
    assert reason_of(tmp_path / "a.seg") == Reason.TRUNCATED_FILE
    with h5py.File(tmp_path / "a.seg", "w") as file:
        file.create_dataset("data", channels.shape, "uint8")
    assert reason_of(tmp_path / "a.seg") == Reason.TRUNCATED_FILE
    with h5py.File(tmp_path / "a.seg", "w") as file:
        file["data"] = h5py.ExternalLink("b.seg", "data")
    assert reason_of(tmp_path / "a.seg") == Reason.UNREADABLE_FILE


def test_read_mask__a_channel_of_the_background_is_refused(tmp_path: Path) -> None:
    """It would move every label by one."""
    channels = np.stack([SIX == number for number in range(7)], axis=-1).transpose(1, 2, 0, 3)
    with h5py.File(tmp_path / "a.seg", "w") as file:
        file["data"] = channels.astype(np.float32)
    with pytest.raises(InputError, match="one channel is the background"):
        read_mask(tmp_path / "a.seg", "iwoai", like=RIGHT)
    with h5py.File(tmp_path / "a.seg", "w") as file:
        file["data"] = channels[..., 1:] * 0.9
    assert reason_of(tmp_path / "a.seg") == Reason.FRACTIONAL_LABELS


def test_read_mask__npz_arrays_that_are_no_masks(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for bone, affine, reason in (
        (LABELS * 0.5, RIGHT.affine, Reason.FRACTIONAL_LABELS),
        (np.where(LABELS, np.nan, 0), RIGHT.affine, Reason.UNREADABLE_VALUE),
        (LABELS[0], RIGHT.affine, Reason.GRID_MISMATCH),
        (LABELS % 4, np.diag([1e-3, 1e-3, 1e-3, 1]) @ RIGHT.affine, Reason.IMPLAUSIBLE_VOXELS),
        (LABELS.astype(object), RIGHT.affine, Reason.UNREADABLE_FILE),
    ):
        np.savez(path, dess_bone=bone, dess_affine=affine, allow_pickle=True)
        assert reason_of(path) == reason
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no arrays")
    assert reason_of(path) == Reason.UNREADABLE_FILE


def test_read_mask__matlab_files(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(999))
    with pytest.raises(InputError, match=r"a file of MATLAB 7.3 .* '-v7'"):
        read_mask(path, "imorphics", like=RIGHT)
    write_imorphics(path, label_map(numbers=(1, 2, 3), shape=(6, 24, 20)))
    with pytest.raises(InputError, match=r"a contour with . from .* image of 9 x 8") as caught:
        read_mask(path, "imorphics", like=RIGHT)
    assert caught.value.reason == Reason.GRID_MISMATCH
