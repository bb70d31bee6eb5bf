"""Write a synthetic OAI: folders of DICOM files, the inventory, the clinical tables, the truth."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .dicom_files import Series, uid, write_series
from .knee import Exam, Setup, Truth, knee, set_up
from .knee import exams as first_exams
from .population import VISITS, Patient
from .render import DESS_NOISE, MSME_NOISE, render_dess, render_msme
from .signal import ECHO_TIMES
from .tables import write_tables

__all__ = ["Archive", "write_archive"]

MARK = "phantom.json"
"""File that says what an archive was made of, and how many exams it has when it is whole."""

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
        Its folder: images by visit, ``contents.csv``, ``clinical/``, ``truth/``.
    exams : tuple of str
        Exam keys, in the order of ``truth/exams.csv``.
    truth : Path
        ``truth/``: ``exams.csv`` and one ``<exam key>.npz`` an exam.
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
    progress: Callable[[int, int], None] | None = None,
) -> Archive:
    """Write a synthetic OAI of `exams` exams.

    The same arguments give the same bytes, and a longer archive holds the exams of a shorter one.
    An archive that is whole is left as it is; one that is not is written again.

    Parameters
    ----------
    out : path
        Folder to make or to write into.
    exams : int
        Number of exams: knees of a patient at a visit, each with a DESS.
    shape : (slices, rows, columns)
        Of the DESS; the field of view is 112 x 140 x 140 mm whatever the shape. (40, 96, 96) is for
        plumbing only, (64, 144, 144) the smallest for judged figures, (160, 384, 384) full size.
    seed : int
        Seed of the population.
    signal : {"epg", "mono"}
        MSME echo train by extended phase graphs (T1 1.2 s, B1 0.8 to 1.1), or exactly exponential.
    compress : bool
        One ``.tar.gz`` a series instead of a folder.
    dess_noise, msme_noise : float
        Standard deviation of each channel of the complex noise, relative to fluid (DESS) and to a
        proton density of 1 (MSME); 0 for none.
    progress : callable, optional
        Called with (done, total) exams.

    Returns
    -------
    Archive

    Raises
    ------
    InputError
        If `exams` is less than 1, the shape too small for a knee, or the folder holds other files.
    """
    from ..errors import InputError

    if exams < 1:
        raise InputError(f"exams = {exams}", expected="at least 1", where="phantom")
    if signal not in ("epg", "mono"):
        raise InputError(f"signal = {signal!r}", expected="'epg' or 'mono'", where="phantom")
    root = Path(out)
    settings = {
        "shape": list(shape), "seed": seed, "signal": signal, "compress": compress,
        "dess_noise": dess_noise, "msme_noise": msme_noise,
    }  # fmt: skip
    chosen = first_exams(exams, seed)
    truth = root / "truth"
    archive = Archive(root, tuple(e.key for e in chosen), truth, root / "clinical")
    if _check_folder(root, settings) == exams:
        return archive
    truth.mkdir(parents=True, exist_ok=True)
    _write_mark(root, settings, 0)
    rows: list[tuple[str, ...]] = []
    table: list[dict[str, Any]] = []
    barcodes: dict[int, int] = {}
    for done, exam in enumerate(chosen):
        at = set_up(exam, shape)
        lattice = at.lattice(exam.random(30))
        true = knee(exam, shape=shape, lattice=lattice)
        t2: NDArray[np.float32] | None = None

        def put(kind: str, series: Series, exam: Exam = exam) -> None:
            number = barcodes[exam.patient.index] = barcodes.get(exam.patient.index, 0) + 1
            folder = _folder(exam, number)
            write_series(root / folder, series, compress=compress)
            rows.append(_inventory_row(exam, folder, kind))

        side = exam.side.upper()
        image = render_dess(exam, at, lattice, noise=dess_noise)
        put("LOCALIZER", _localizer(exam, at, image))
        name = f"SAG_3D_DESS_{side}"
        if _repeated(exam, "dess"):
            bad = render_dess(exam, at, lattice, spoiled=True, noise=dess_noise or DESS_NOISE)
            put(name, _dess_series(exam, at, bad, 0))
        put(name, _dess_series(exam, at, image, 1))
        if exam.has_msme:
            name = f"SAG_T2_MAP_{side}"
            if _repeated(exam, "msme"):
                spoiled, _ = render_msme(
                    exam, at, lattice, model=signal, spoiled=True, noise=msme_noise or MSME_NOISE
                )
                put(name, _msme_series(exam, at, spoiled, 0))
            echoes, t2 = render_msme(exam, at, lattice, model=signal, noise=msme_noise)
            put(name, _msme_series(exam, at, echoes, 1))
        _write_truth(truth / f"{exam.key}.npz", true, t2)
        table.append(_truth_row(exam, at, true))
        if progress is not None:
            progress(done + 1, len(chosen))
    _write_csv(truth / "exams.csv", table)
    _write_inventory(root / "contents.csv", rows)
    patients: dict[int, Patient] = {e.patient.index: e.patient for e in chosen}
    write_tables(archive.clinical, list(patients.values()), seed)
    _write_mark(root, settings, exams)
    return archive


def _check_folder(root: Path, settings: dict[str, Any]) -> int:
    """Return how many exams of these settings the folder has; refuse one that holds other things.

    Two archives in one folder would be read as one, with files of both in a series.
    """
    from ..errors import InputError, Reason

    if not root.exists() or not any(root.iterdir()):
        return 0
    try:
        known = json.loads((root / MARK).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        known = {}
    if known.get("settings") == settings:
        return int(known["exams"])
    raise InputError(
        "a folder with " + ("an archive of other settings" if known else "other files"),
        expected="a new or empty folder, or an archive of the same settings to go on with",
        where=str(root),
        todo="Choose another folder, or remove this one.",
        reason=Reason.OTHER_SERIES,
    )


def _write_mark(root: Path, settings: dict[str, Any], exams: int) -> None:
    text = json.dumps({"settings": settings, "exams": exams}, indent=1)
    (root / MARK).write_text(text + "\n", encoding="utf-8")


def _folder(exam: Exam, number: int) -> str:
    releases = _RELEASES[exam.visit.month]
    release = releases[exam.patient.index % len(releases)]
    barcode = 10_000_000 + 100 * exam.patient.index + number
    return f"{exam.visit.month:02d}m/{release}/{exam.patient.number}/{_date(exam):%Y%m%d}/{barcode}"


def _date(exam: Exam) -> datetime.date:
    return datetime.date.fromordinal(exam.patient.enrolled + exam.visit.days)


def _repeated(exam: Exam, kind: str) -> bool:
    """Whether a series was scanned twice: always once early, so that small archives have one."""
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


def _header(exam: Exam, name: str, number: int, minute: int) -> dict[str, Any]:
    """Return what all files of one series share."""
    date, hour = f"{_date(exam):%Y%m%d}", 9 + (exam.side == "left")
    clock = f"{hour:02d}{minute:02d}00.000000"
    born = datetime.date.fromordinal(exam.patient.enrolled - int(exam.patient.age * 365.25))
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "StudyTime": f"{hour:02d}0000.000000",
        "SeriesTime": clock,
        "AcquisitionTime": clock,
        "AccessionNumber": "",
        "Modality": "MR",
        "Manufacturer": "qmri_lake phantom",
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
    """Return three coarse slices: what every session starts with and no analysis wants."""
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


def _write_truth(path: Path, true: Truth, t2: NDArray[np.float32] | None) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "dess_bone": true.dess_bone,
        "dess_cartilage": true.dess_cartilage,
        "dess_affine": true.dess_affine,
        "surface_point": true.surface.point,
        "surface_normal": true.surface.normal,
        "surface_thickness": true.surface.thickness,
        "surface_area": true.surface.area,
        "surface_region": true.surface.region,
    }
    if t2 is not None:
        arrays |= {
            "msme_bone": true.msme_bone,
            "msme_cartilage": true.msme_cartilage,
            "msme_affine": true.msme_affine,
            "dess_to_msme": true.dess_to_msme,
            "t2": t2,
        }
    # savez stamps 1980 into every member, so the file depends on its arrays alone.
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _truth_row(exam: Exam, at: Setup, true: Truth) -> dict[str, Any]:
    own = exam.knee
    chronic = "1" if own.pain_months >= 6 else ("" if own.any_pain else "0")
    return {
        "exam": exam.key,
        "patient": exam.patient.number,
        "timepoint": exam.visit.month,
        "knee": exam.side,
        "seed": exam.seed,
        "patient_index": exam.patient.index,
        "msme": int(exam.has_msme),
        "age": f"{exam.patient.age + exam.visit.days / 365.25:.2f}",
        "sex": exam.patient.sex,
        "bmi": f"{exam.visit.bmi:.1f}",
        "kl": own.kl,
        "oa": int(own.kl >= 2),
        "chronic": chronic,
        "pain_months": own.pain_months,
        "severity": f"{own.severity:.6f}",
        "pain_score": f"{own.pain_score:.6f}",
        "wear_medial": f"{own.wear_medial:.6f}",
        "wear_lateral": f"{own.wear_lateral:.6f}",
        "wear_front": f"{own.wear_front:.6f}",
        "femur_width": f"{at.anatomy.width:.3f}",
        "t2_raised": f"{at.raised:.4f}",
        **{k: f"{v:.4f}" for k, v in true.thickness.items()},
    }


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [",".join(rows[0])] + [",".join(str(v) for v in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _write_inventory(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Write contents.csv as it is delivered: a byte-order mark, trailing blanks, CR LF."""
    head = "Folder,ParticipantID,StudyDate,Barcode,StudyDescription,SeriesDescription"
    lines = [head] + [",".join(row) + " " * (3 if i % 4 == 1 else 0) for i, row in enumerate(rows)]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig", newline="")
