"""Write a synthetic OAI archive: DICOM files, inventory, clinical tables and ground truth."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.header import PHANTOM_MANUFACTURER
from qmri_lake.phantom.dicom_files import Series, uid, write_series
from qmri_lake.phantom.exam_truth import Exam, Setup, knee, set_up
from qmri_lake.phantom.exam_truth import exams as first_exams
from qmri_lake.phantom.lattice import Lattice
from qmri_lake.phantom.other_series import OTHER_SERIES, OtherKind, render_other
from qmri_lake.phantom.phase_graphs import ECHO_TIMES
from qmri_lake.phantom.population import VISITS, Patient
from qmri_lake.phantom.render import DESS_NOISE, MSME_NOISE, render_dess, render_msme
from qmri_lake.phantom.tables import write_tables
from qmri_lake.phantom.truth_files import truth_row, write_csv, write_truth

__all__ = ["Archive", "write_archive"]

MARKER = "phantom.json"
"""File with the settings of an archive and, once the archive is complete, its number of exams."""

_RELEASES = {
    0: ("0.C.2", "0.E.1"),
    12: ("1.C.2", "1.E.1"),
    18: ("2.D.2",),
    24: ("3.C.2", "3.E.1"),
    30: ("4.G.1",),
    36: ("5.C.1", "5.E.1"),
    48: ("6.C.1", "6.E.1"),
    72: ("8.C.1", "8.E.1"),
    96: ("10.C.1", "10.E.1"),
}


@dataclass(frozen=True, slots=True)
class Archive:
    """A synthetic archive on disk.

    Attributes
    ----------
    path : Path
        Folder of the archive with images by visit, ``contents.csv``, ``clinical/`` and ``truth/``.
    exams : tuple of str
        Exam keys, in the order of ``truth/exams.csv``.
    truth : Path
        Folder ``truth/``, with ``exams.csv`` and one ``<exam key>.npz`` per exam.
    clinical : Path
        The folder of the clinical tables.
    """

    path: Path
    exams: tuple[str, ...]
    truth: Path
    clinical: Path


def write_archive(
    out: str | Path,
    *,
    exams: int = 8,
    shape: tuple[int, int, int] = (64, 144, 144),
    seed: int = 0,
    signal: Literal["epg", "mono"] = "epg",
    compress: bool = False,
    dess_noise: float = DESS_NOISE,
    msme_noise: float = MSME_NOISE,
    series: Sequence[OtherKind] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Archive:
    """Write a synthetic OAI archive.

    The same arguments give the same bytes. An archive with more exams contains the exams of an
    archive with fewer exams. A complete archive is not written again. An incomplete archive is
    written again from the start.

    Parameters
    ----------
    out : path
        Output folder; created if missing.
    exams : int
        Number of exams. An exam is one knee of a patient at one visit, with a DESS.
    shape : (slices, rows, columns)
        Shape of the DESS. The field of view is always 112 x 140 x 140 mm. Use (40, 96, 96) to test
        the software, and at least (64, 144, 144) to evaluate results. (160, 384, 384) is the shape
        of the OAI.
    seed : int
        Seed of the population.
    signal : {"epg", "mono"}
        Model of the MSME echo train: extended phase graphs (T1 1.2 s, B1 0.8 to 1.1), or an exact
        mono-exponential decay.
    compress : bool
        Write one ``.tar.gz`` per series instead of a folder.
    dess_noise, msme_noise : float
        Standard deviation of the real and imaginary noise, relative to fluid (DESS) and to a proton
        density of 1 (MSME); 0 for no noise.
    series : sequence of {"t1rho", "t2star", "qdess"}
        Other series that each exam also has: see `qmri_lake.phantom.other_series`.
    progress : callable, optional
        Called with the number of completed exams and the number of all exams.

    Returns
    -------
    Archive

    Raises
    ------
    InputError
        If `exams` is less than 1, the shape is too small for a knee, or the folder contains other
        files.
    """
    if exams < 1:
        raise InputError(f"exams = {exams}", expected="at least 1", where="phantom")
    if signal not in ("epg", "mono"):
        raise InputError(f"signal = {signal!r}", expected="'epg' or 'mono'", where="phantom")
    if unknown := [name for name in series if name not in OTHER_SERIES]:
        raise InputError(
            f"series {unknown[0]!r}", expected=", ".join(OTHER_SERIES), where="phantom"
        )
    root = Path(out)
    settings: dict[str, object] = {
        "shape": list(shape),
        "seed": seed,
        "signal": signal,
        "compress": compress,
        "dess_noise": dess_noise,
        "msme_noise": msme_noise,
        **({"series": sorted(series)} if series else {}),
    }
    chosen = first_exams(exams, seed)
    truth = root / "truth"
    archive = Archive(root, tuple(e.key for e in chosen), truth, root / "clinical")
    if _check_folder(root, settings) == exams:
        return archive
    truth.mkdir(parents=True, exist_ok=True)
    _write_marker(root, settings, 0)
    inventory = _Inventory(root, compress)
    table: list[dict[str, object]] = []
    for done, exam in enumerate(chosen):
        at = set_up(exam, shape)
        lattice = at.lattice(exam.random(30))
        true = knee(exam, shape=shape, lattice=lattice)
        _add_dess(inventory, exam, at, lattice, dess_noise)
        t2 = _add_msme(inventory, exam, at, lattice, signal, msme_noise) if exam.has_msme else None
        for kind in sorted(set(series)):
            _add_other(inventory, exam, at, lattice, kind, msme_noise)
        write_truth(truth / f"{exam.key}.npz", true, t2)
        table.append(truth_row(exam, at, true))
        if progress is not None:
            progress(done + 1, len(chosen))
    write_csv(truth / "exams.csv", table)
    _write_inventory(root / "contents.csv", inventory.rows)
    patients: dict[int, Patient] = {e.patient.index: e.patient for e in chosen}
    write_tables(archive.clinical, list(patients.values()), seed)
    _write_marker(root, settings, exams)
    return archive


class _Inventory:
    """Writer of series into the folders of an archive; collects the rows of the inventory."""

    def __init__(self, root: Path, compress: bool) -> None:
        self.rows: list[tuple[str, ...]] = []
        self._root, self._compress = root, compress
        self._count: dict[int, int] = {}
        """Number of series so far, by patient. Barcodes are numbered within each patient."""

    def add(self, exam: Exam, name: str, series: Series) -> None:
        """Write a series."""
        number = self._count[exam.patient.index] = self._count.get(exam.patient.index, 0) + 1
        folder = _folder(exam, number)
        write_series(self._root / folder, series, compress=self._compress)
        self.rows.append(_inventory_row(exam, folder, name))


def _add_dess(inventory: _Inventory, exam: Exam, at: Setup, lattice: Lattice, noise: float) -> None:
    """Add the localizer and the DESS of an exam; a repeated DESS follows a spoiled first scan."""
    image = render_dess(exam, at, lattice, noise=noise)
    inventory.add(exam, "LOCALIZER", _localizer(exam, at, image))
    name = f"SAG_3D_DESS_{exam.side.upper()}"
    if _repeated(exam, "dess"):
        spoiled = render_dess(exam, at, lattice, spoiled=True, noise=noise or DESS_NOISE)
        inventory.add(exam, name, _dess_series(exam, at, spoiled, 0))
    inventory.add(exam, name, _dess_series(exam, at, image, 1))


def _add_msme(
    inventory: _Inventory,
    exam: Exam,
    at: Setup,
    lattice: Lattice,
    signal: Literal["epg", "mono"],
    noise: float,
) -> NDArray[np.float32]:
    """Add the MSME series of an exam in the same way as its DESS; return the true T2 map, ms."""
    name = f"SAG_T2_MAP_{exam.side.upper()}"
    if _repeated(exam, "msme"):
        spoiled, _ = render_msme(
            exam, at, lattice, model=signal, spoiled=True, noise=noise or MSME_NOISE
        )
        inventory.add(exam, name, _msme_series(exam, at, spoiled, 0))
    echoes, t2 = render_msme(exam, at, lattice, model=signal, noise=noise)
    inventory.add(exam, name, _msme_series(exam, at, echoes, 1))
    return t2


def _add_other(
    inventory: _Inventory, exam: Exam, at: Setup, lattice: Lattice, kind: OtherKind, noise: float
) -> None:
    """Add a series of another kind to an exam."""
    how = OTHER_SERIES[kind]
    name = f"{how.name}_{exam.side.upper()}"
    image, affine = render_other(exam, at, lattice, kind, noise=noise)
    step = float(np.linalg.norm(affine[:3, 0]))
    header = _header(exam, name, how.number, 2 * how.number)
    values = {**header, **how.values, "SliceThickness": f"{step:.6g}"}
    identity = f"{exam.key} {exam.seed} {image.shape} {kind}"
    left = exam.side == "left"
    inventory.add(exam, name, Series(values, image, affine, how.times, identity, descending=left))


def _check_folder(root: Path, settings: dict[str, object]) -> int:
    """Return the number of exams that the folder has with these settings.

    A folder with other files raises an error, since the files of two archives in one folder would
    be mixed when they are ingested.
    """
    if not root.exists() or not any(root.iterdir()):
        return 0
    try:
        known = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        known = {}
    if known.get("settings") == settings:
        return int(known["exams"])
    raise InputError(
        "a folder with " + ("an archive of other settings" if known else "other files"),
        expected="a new or empty folder, or an archive of the same settings",
        where=str(root),
        todo="Choose another folder, or remove this folder.",
        reason=Reason.OTHER_SERIES,
    )


def _write_marker(root: Path, settings: dict[str, object], exams: int) -> None:
    text = json.dumps({"settings": settings, "exams": exams}, indent=1)
    (root / MARKER).write_text(text + "\n", encoding="utf-8")


def _folder(exam: Exam, number: int) -> str:
    releases = _RELEASES[exam.visit.month]
    release = releases[exam.patient.index % len(releases)]
    barcode = 10_000_000 + 100 * exam.patient.index + number
    return f"{exam.visit.month:02d}m/{release}/{exam.patient.number}/{_date(exam):%Y%m%d}/{barcode}"


def _date(exam: Exam) -> datetime.date:
    return datetime.date.fromordinal(exam.patient.enrolled + exam.visit.days)


def _repeated(exam: Exam, kind: str) -> bool:
    """Return whether a series was scanned twice; the first exam always has a repeated DESS."""
    if exam.patient.index == 0 and exam.visit.month == 0:
        return kind == "dess" and exam.side == "right"
    chance = exam.random(41 if kind == "dess" else 42).random()
    return bool(chance < (0.10 if kind == "dess" else 0.12))


def _study(exam: Exam) -> str:
    visit = "ENROLLMENT" if exam.visit.month == 0 else f"{exam.visit.month} MONTH"
    return f"OAI^MR^{visit}^{exam.side.upper()}"


def _inventory_row(exam: Exam, folder: str, name: str) -> tuple[str, ...]:
    barcode = folder.rsplit("/", 1)[1]
    return (folder, str(exam.patient.number), f"{_date(exam):%Y%m%d}", barcode, _study(exam), name)


def _header(exam: Exam, name: str, number: int, minute: int) -> dict[str, object]:
    """Return the header values that all files of a series have in common."""
    date, hour = f"{_date(exam):%Y%m%d}", 9 + (exam.side == "left")
    clock = f"{hour:02d}{minute:02d}00.000000"
    born = datetime.date.fromordinal(exam.patient.enrolled - int(exam.patient.age * 365.25))
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        # ImageType stays ORIGINAL: DERIVED images are computed from other images (PS3.3 C.7.6.1).
        "SyntheticData": "YES",
        "ContentQualification": "RESEARCH",
        "ImageComments": "Synthetic image of a knee that does not exist",
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "StudyTime": f"{hour:02d}0000.000000",
        "SeriesTime": clock,
        "AcquisitionTime": clock,
        "AccessionNumber": "",
        "Modality": "MR",
        "Manufacturer": PHANTOM_MANUFACTURER,
        "InstitutionName": "qmri_lake phantom: no such patient",
        "ReferringPhysicianName": "",
        "StudyDescription": _study(exam),
        "SeriesDescription": name,
        "ManufacturerModelName": "qmri_lake phantom",
        "PatientName": "qmri_lake^phantom",
        "PatientID": f"{exam.patient.number:07d}",
        "PatientBirthDate": f"{born.year:04d}0101",
        "PatientSex": "M" if exam.patient.sex == 1 else "F",
        "PatientAge": f"{int(exam.patient.age + exam.visit.days / 365.25):03d}Y",
        "ClinicalTrialSponsorName": "qmri_lake phantom",
        "ClinicalTrialProtocolID": "OAI",
        "ClinicalTrialTimePointID": f"V{VISITS[exam.visit.month]}",
        "MagneticFieldStrength": "3",
        "StudyInstanceUID": uid(f"{exam.key} {exam.seed} study"),
        "StudyID": "1",
        "SeriesNumber": number,
    }


def _dess_series(exam: Exam, at: Setup, image: NDArray[np.int16], last: int) -> Series:
    name = f"SAG_3D_DESS_{exam.side.upper()}"
    step = float(np.linalg.norm(at.dess_affine[:3, 0]))
    values = _header(exam, name, 3 + last, 10 + 12 * last) | {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "DIS2D"],
        "ScanningSequence": ["GR"],
        "SequenceVariant": ["SK", "SP"],
        "ScanOptions": ["PFP", "WE"],
        "MRAcquisitionType": "3D",
        "SequenceName": "*de3d1",
        "SliceThickness": f"{step:.6g}",
        "RepetitionTime": "16.32",
        "FlipAngle": "25",
    }
    return Series(
        values,
        image[None],
        at.dess_affine,
        (4.71,),
        f"{exam.key} {exam.seed} {image.shape} dess {last}",
        descending=exam.side == "left",
    )


def _msme_series(exam: Exam, at: Setup, echoes: NDArray[np.float32], last: int) -> Series:
    name = f"SAG_T2_MAP_{exam.side.upper()}"
    slope = (1.0, 0.25, 0.5)[exam.patient.index % 3]
    values = _header(exam, name, 7 + last, 40 + 9 * last) | {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "DIS2D"],
        "ScanningSequence": ["SE"],
        "SequenceVariant": ["SP"],
        "ScanOptions": [],
        "MRAcquisitionType": "2D",
        "SequenceName": "se2d7",
        "SliceThickness": "3",
        "SpacingBetweenSlices": "3.5",
        "RepetitionTime": "2700",
        "FlipAngle": "180",
        "EchoTrainLength": len(ECHO_TIMES),
        "RescaleSlope": str(slope),
        "RescaleIntercept": "0",
        "RescaleType": "US",
    }
    stored = np.clip(np.rint(echoes / np.float32(slope)), 0, 32767).astype(np.int16)
    return Series(
        values,
        stored,
        at.msme_affine,
        ECHO_TIMES,
        f"{exam.key} {exam.seed} {echoes.shape} msme {last}",
        descending=exam.side == "left",
    )


def _localizer(exam: Exam, at: Setup, image: NDArray[np.int16]) -> Series:
    """Return a localizer of three coarse slices, since every scan session has one."""
    step = max(1, image.shape[0] // 4)
    picked = np.ascontiguousarray(image[step::step, ::2, ::2][:3])
    affine = at.dess_affine.copy()
    affine[:3, 3] += step * affine[:3, 0] + (affine[:3, 1] + affine[:3, 2]) / 2
    affine[:3, :3] *= (step, 2, 2)
    values = _header(exam, "LOCALIZER", 1, 2) | {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
        "ScanningSequence": ["GR"],
        "SequenceVariant": ["SP"],
        "ScanOptions": [],
        "MRAcquisitionType": "2D",
        "SequenceName": "*fl2d1",
        "SliceThickness": "6",
        "RepetitionTime": "20",
        "FlipAngle": "40",
    }
    identity = f"{exam.key} {exam.seed} {image.shape} localizer"
    return Series(values, picked[None], affine, (5.0,), identity)


def _write_inventory(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Write contents.csv like the original, with a byte-order mark, trailing blanks and CR LF."""
    head = "Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"
    lines = [head] + [",".join(row) + " " * (3 if i % 4 == 1 else 0) for i, row in enumerate(rows)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig", newline="")
