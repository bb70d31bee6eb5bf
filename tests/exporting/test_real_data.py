"""Real images and labels through every export of volumes, read back by other programs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import dcm2niix
import highdicom as hd
import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import scipy.io
import SimpleITK as sitk
import xarray as xr
import zarr

import qmri_lake as ql
from tests.conftest import Judge
from tests.exporting.lakes import build_lake

Volume = tuple[np.ndarray, np.ndarray]
"""Voxels (slice, row, column), and the affine to LPS mm."""

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
EXAM = "0000001-000m-right"


def _reversed_axes(affine: np.ndarray) -> np.ndarray:
    return affine[:, [2, 1, 0, 3]]


def _nifti(stem: Path) -> Volume:
    image = nib.load(f"{stem}.nii.gz")
    return np.asanyarray(image.dataobj).T, _reversed_axes(_LPS @ image.affine)


def _bids(stem: Path) -> Volume:
    (folder,) = stem.parent.parent.glob("**/sub-1/ses-000m/anat")
    found = sorted(folder.glob("*MESE.nii.gz")) or sorted(folder.glob("*dseg.nii.gz"))
    parts = [_nifti(path.with_name(path.name.removesuffix(".nii.gz"))) for path in found]
    voxels = np.stack([voxels for voxels, _ in parts])
    return (voxels if len(parts) > 1 else voxels[0]), parts[0][1]


def _nrrd(stem: Path) -> Volume:
    suffix = ".nrrd" if Path(f"{stem}.nrrd").exists() else ".seg.nrrd"
    data, header = nrrd.read(f"{stem}{suffix}")
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"][-3:].T
    affine[:3, 3] = header["space origin"]
    axes = (0, 3, 2, 1) if data.ndim == 4 else (2, 1, 0)
    return data.transpose(axes), _reversed_axes(affine)


def _itk(stem: Path) -> Volume:
    suffix = ".nrrd" if Path(f"{stem}.nrrd").exists() else ".seg.nrrd"
    image = sitk.ReadImage(f"{stem}{suffix}")
    voxels = sitk.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return (np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels), _reversed_axes(affine)


def _group(stem: Path) -> tuple[str, str, Path]:
    """Return group, name and the file of the group, for a path of a variable."""
    group, name = stem.name.removeprefix(f"{EXAM}_").split("_", 1)
    return group, name, stem.with_name(f"{EXAM}_{group}")


def _netcdf(stem: Path) -> Volume:
    _, name, file = _group(stem)
    with xr.open_dataset(f"{file}.nc", engine="h5netcdf") as ds:
        return ds[name].values, ds["affine"].values


def _mat(stem: Path) -> Volume:
    group, name, file = _group(stem)
    found = scipy.io.loadmat(f"{file}.mat", simplify_cells=True)
    return found[group][name], found["attributes"][name]["affine_lps_mm"]


def _ome_zarr(stem: Path) -> Volume:
    _, name, file = _group(stem)
    plain = file.with_name(f"{file.name}{'' if name == 'image' else f'_{name}'}.ome.zarr")
    group = zarr.open_group(plain, mode="r")
    affine = np.array(group.attrs["qmri_lake"]["affine_lps_slice_row_column_mm"])
    return group["0"][...], affine


def _dicom(stem: Path) -> Volume:
    found = sorted(stem.parent.glob(f"{stem.name}_echo-*.dcm"))
    if not found:
        volume = hd.seg.segread(f"{stem}.dcm").get_volume(combine_segments=True)
        return volume.array, volume.affine
    objects = [pydicom.dcmread(path) for path in found]
    return np.stack([made.pixel_array for made in objects]), _positions_of_frames(objects[0])


def _positions_of_frames(made: pydicom.Dataset) -> np.ndarray:
    """The affine of a parametric map, from the positions of its first and last frame."""
    shared = made.SharedFunctionalGroupsSequence[0]
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    along = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    places = [
        np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        for frame in made.PerFrameFunctionalGroupsSequence
    ]
    affine = np.eye(4)
    affine[:3, 0] = (places[-1] - places[0]) / (len(places) - 1)
    affine[:3, 1], affine[:3, 2] = along[3:] * spacing[0], along[:3] * spacing[1]
    affine[:3, 3] = places[0]
    return affine


READERS: dict[tuple[str, str], Callable[[Path], Volume]] = {
    ("nifti", "nibabel"): _nifti,
    ("nrrd", "pynrrd"): _nrrd,
    ("nrrd", "SimpleITK"): _itk,
    ("bids", "nibabel"): _bids,
    ("dicom", "pydicom and highdicom"): _dicom,
    ("ome-zarr", "zarr-python"): _ome_zarr,
    ("netcdf", "xarray"): _netcdf,
    ("mat", "SciPy"): _mat,
}


def equal(found: Volume, voxels: np.ndarray, affine: np.ndarray) -> bool:
    """Whether every voxel is equal at a position within 1e-4 mm, in any order of slices."""
    values, own = found
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in voxels.shape[-3:]])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(8)])
    if np.abs((own - affine) @ corners).max() < 1e-4:
        return bool(np.array_equal(values, voxels))
    flipped = own.copy()  # DICOM viewers order slices along the normal
    flipped[:3, 0] *= -1
    flipped[:3, 3] += own[:3, 0] * (voxels.shape[-3] - 1)
    same = np.abs((flipped - affine) @ corners).max() < 1e-4
    return bool(same and np.array_equal(values[..., ::-1, :, :], voxels))


def round_trips(lake: ql.Lake, path: str, out: Path) -> list[str]:
    """Export a volume in every format; return the formats and programs that read it equal."""
    group, _, name = path.partition("/")
    extent = tuple(slice(0, n) for n in lake.root[f"{group}/extent"][0])
    voxels = lake.root[path][(0, ..., *extent)]
    affine = lake.root[f"{group}/affine"][0]
    done = []
    for form in dict.fromkeys(form for form, _ in READERS):
        result = ql.export(lake, out / form, format=form, variables=path)
        assert (result.written, result.problems) == (1, ()), result.problems
    for (form, program), read in READERS.items():
        stem = out / form / EXAM / f"{EXAM}_{group}_{name}"
        if equal(read(stem), voxels, affine):
            done.append(f"{form} by {program}")
    return done


@pytest.mark.accept
def test_export__real_multi_echo_images_return_from_every_format(
    real_data: Path, tmp_path: Path, judge: Judge
) -> None:
    url = str(tmp_path / "oai.lake")
    options = {"patient": 1, "timepoint": 0, "knee": "right", "group": "msme"}
    lake = ql.ingest(real_data / "knee_mese", url, **options).lake
    done = round_trips(lake, "msme/image", tmp_path / "out")
    judge(
        "export / real multi-echo images, read by other programs",
        required=f"{len(READERS)} of {len(READERS)}: voxels equal, affine to 1e-4 mm",
        measured=f"{len(done)} of {len(READERS)}: {', '.join(done)}",
        passed=len(done) == len(READERS),
    )
    theirs = tmp_path / "dcm2niix"
    theirs.mkdir()
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "e%e", "-o", theirs]
    subprocess.run([*command, real_data / "knee_mese"], check=True, capture_output=True)
    ours = nib.load(tmp_path / "out" / "nifti" / EXAM / f"{EXAM}_msme_image.nii.gz")
    # Positions in the headers are rounded. dcm2niix uses that of the first slice; ours are a fit.
    worst, different = 0.0, 0
    files = sorted(theirs.glob("*.nii"), key=lambda p: int(p.stem.removeprefix("e")))
    for echo, file in enumerate(files):
        other = nib.as_closest_canonical(nib.load(file))
        mine = nib.as_closest_canonical(ours.slicer[..., echo])
        worst = max(worst, float(np.abs(other.affine - mine.affine).max()))
        different += int((np.asanyarray(other.dataobj) != np.asanyarray(mine.dataobj)).sum())
    judge(
        "export / NIfTI of a real multi-echo series, and dcm2niix's",
        required="8 echoes: no voxel differs; affine within 1e-3 mm",
        measured=f"{len(files)} echoes: {different} voxels differ; affine within {worst:.0e} mm",
        passed=len(files) == 8 and different == 0 and worst < 1e-3,
    )


@pytest.mark.accept
def test_export__real_labels_return_from_every_format(
    real_data: Path, tmp_path: Path, judge: Judge
) -> None:
    mask = ql.read_mask(real_data / "knee_segmentation" / "right_knee_labels.nrrd")
    labels = np.asarray(mask.labels)
    bone = np.select([labels == 5, labels == 6, labels == 7], [1, 2, 3], 0).astype(np.uint8)
    lake = build_lake(
        tmp_path / "oai.lake",
        [(1, 0, "right")],
        [
            {
                "dess/bone": bone,
                "dess/affine": np.asarray(mask.affine),
                "dess/extent": np.array(bone.shape),
            }
        ],
        {1: {"step": "import", "parameters": {}, "version": "1"}},
        {"dess": bone.shape},
        {"ingest_dess": 1, "segment_bones": 1},
    )
    done = round_trips(lake, "dess/bone", tmp_path / "out")
    judge(
        "export / labels of a real knee, read by other programs",
        required=f"{len(READERS)} of {len(READERS)}: voxels equal, affine to 1e-4 mm",
        measured=f"{len(done)} of {len(READERS)}: {', '.join(done)}",
        passed=len(done) == len(READERS),
    )
