"""DICOM: labels as segmentations, images and maps as parametric maps, by highdicom.

A lake keeps no UIDs of source images. The objects of an exam are therefore one study of their own.
Those of a group share a frame of reference, so that viewers superimpose them; they don't refer to
the images of the scanner. UIDs depend on the exam and the run only: a second export has the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from qmri_lake.core.array_api import Values
from qmri_lake.core.atomic_write import atomic_write
from qmri_lake.core.version import __version__
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray
from qmri_lake.exporting.format_declaration import (
    Each,
    Format,
    Written,
    refuse_other_than_volumes,
)
from qmri_lake.exporting.unsegmented import unsegmented
from qmri_lake.schema.variable import Variable

__all__ = ["DICOM"]

_PROGRAM = "qmri_lake"
_UNITS = {
    "ms": codes.UCUM.Millisecond,
    "mm": codes.UCUM.Millimeter,
    "": codes.UCUM.NoUnits,
}
_QUANTITIES = {"t2": codes.DCM.T2, "t2star": codes.DCM.T2Star}
_TISSUES = {
    "femur": codes.SCT.Femur,
    "tibia": codes.SCT.Tibia,
    "patella": codes.SCT.Patella,
    "femoral": codes.SCT.Cartilage,
    "tibial": codes.SCT.Cartilage,
    "patellar": codes.SCT.Cartilage,
    "meniscus": codes.SCT.Meniscus,
}
_BACKGROUND = "background"
_LOST = (
    "the objects are a study of their own and don't refer to the images of the scanner: a lake "
    "keeps no SOP instance UIDs"
)


def refuse_dicom(variable: Variable) -> str:
    """Return why neither object can hold a variable; "" if one can."""
    if reason := refuse_other_than_volumes(variable):
        return reason
    if variable.dtype not in ("float32", "float64", "uint8", "uint16"):
        return f"is {variable.dtype}, which no parametric map can hold"
    return ""


def write_dicom(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
    """Write one variable: labels as one segmentation, others as a map for each echo."""
    written = Written()
    for path in paths:
        array = content.read(path)
        if reason := unsegmented(array, written):
            written.left_out[path] = reason
            continue
        written.losses.append(_LOST)
        if array.is_labels and _BACKGROUND in (array.variable.flags or {}):
            objects = {"": _segmentation(content, array)}
        elif array.values.ndim == 4:
            dim = array.variable.dims[0]
            objects = {
                f"_{dim}-{n + 1}": _parametric_map(content, array, n)
                for n in range(len(array.values))
            }
        else:
            objects = {"": _parametric_map(content, array, None)}
        for suffix, made in objects.items():
            file = stem.with_name(f"{stem.name}{suffix}.dcm")
            with atomic_write(file) as unfinished:
                made.save_as(unfinished)
            written.files.append(file)
    return written


def _volume(content: ExamContent, array: ExportedArray, values: Values) -> Any:
    import highdicom as hd  # of the extra `dicom`

    assert array.affine is not None
    return hd.Volume(
        np.ascontiguousarray(values),
        array.affine,
        "PATIENT",
        frame_of_reference_uid=_uid(content, array.variable.group, "frame of reference"),
    )


def _uid(content: ExamContent, *parts: str) -> str:
    """Return a UID that depends on the exam and the parts only."""
    return str(generate_uid(entropy_srcs=[_PROGRAM, content.exam, *parts]))


def _template(content: ExamContent, array: ExportedArray) -> list[Dataset]:
    """Return headers of slices, from which highdicom takes the patient and the study.

    They are not saved, and the objects don't refer to them.
    """
    slices = []
    rows, columns = array.values.shape[-2:]
    for n in range(array.values.shape[-3]):
        header = Dataset()
        header.SOPClassUID = MRImageStorage
        header.SOPInstanceUID = _uid(content, array.variable.group, f"slice {n}")
        header.StudyInstanceUID = _uid(content, "study")
        header.SeriesInstanceUID = _uid(content, array.variable.group, "template")
        header.FrameOfReferenceUID = _uid(content, array.variable.group, "frame of reference")
        header.PositionReferenceIndicator = ""
        header.PatientID, header.PatientName = content.exam, f"{content.exam}^"
        header.PatientBirthDate = header.PatientSex = header.StudyDate = header.StudyTime = ""
        header.AccessionNumber = header.StudyID = header.ReferringPhysicianName = ""
        header.StudyDescription = content.exam
        header.Modality, header.InstanceNumber = "MR", n + 1
        header.Rows, header.Columns = rows, columns
        assert array.affine is not None
        position = array.affine @ [n, 0, 0, 1]
        spacing = np.linalg.norm(array.affine[:3, :3], axis=0)
        directions = array.affine[:3, :3] / spacing
        header.ImagePositionPatient = _decimals(position[:3])
        header.ImageOrientationPatient = _decimals([*directions[:, 2], *directions[:, 1]])
        header.PixelSpacing = _decimals(spacing[1:])
        header.SliceThickness = _decimals(spacing[:1])[0]
        slices.append(header)
    return slices


def _decimals(values: Any) -> list[str]:
    """Return numbers as decimal strings of DICOM, which have at most 16 characters."""
    return [f"{float(value):.10g}" for value in values]


def _common(content: ExamContent, array: ExportedArray, number: str) -> dict[str, Any]:
    """Return the arguments that both kinds of objects have in common."""
    run = json.dumps([array.lineage.get("run"), array.lineage.get("run_began_at")])
    return {
        "source_images": _template(content, array),
        "series_instance_uid": _uid(content, array.path, run, "series"),
        "series_number": 1,
        "sop_instance_uid": _uid(content, array.path, run, number, "instance"),
        "instance_number": int(number or 0) + 1,
        "manufacturer": _PROGRAM,
        "manufacturer_model_name": _PROGRAM,
        "software_versions": __version__,
        "device_serial_number": "0",
        "content_label": array.variable.name.upper()[:16],
        "content_description": _description(content, array, number),
        "content_creator_name": None,
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


def _description(content: ExamContent, array: ExportedArray, number: str) -> str:
    mark = "synthetic " if content.synthetic else ""
    echo = ""
    if number and array.times is not None:
        kind = array.image_axis.replace("_", " ")
        echo = f", {kind} time {array.times[int(number)]:g} ms"
    return f"{mark}{array.path}{echo}"[:64]


def _segmentation(content: ExamContent, array: ExportedArray) -> Dataset:
    """Return the segmentation object of a label array, with a segment for each label."""
    import highdicom as hd  # of the extra `dicom`

    named = [(value, name) for value, name in sorted(array.labels.items()) if name != _BACKGROUND]
    segments = np.zeros(array.values.shape, np.uint8)
    for n, (value, _) in enumerate(named):
        segments[array.values == value] = n + 1
    step = str(array.lineage.get("step", ""))
    manual = array.variable.name.startswith("reference_")
    automatic = step.startswith(("segment", "register"))
    kind = "MANUAL" if manual else "AUTOMATIC" if automatic else "SEMIAUTOMATIC"
    algorithm = None
    if kind != "MANUAL":
        algorithm = hd.AlgorithmIdentificationSequence(
            name=step or "unknown",
            family=codes.DCM.ArtificialIntelligence,
            version=str(array.lineage.get("code", "unknown")),
        )
    described = [
        hd.seg.SegmentDescription(
            segment_number=n + 1,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_TISSUES.get(name)
            or Code(name.replace(" ", "_")[:16], "99QMRILAKE", name),
            algorithm_type=kind,
            algorithm_identification=algorithm,
        )
        for n, (_, name) in enumerate(named)
    ]
    made = hd.seg.Segmentation(
        pixel_array=_volume(content, array, segments),
        segmentation_type="BINARY",
        segment_descriptions=described,
        omit_empty_frames=False,
        **_common(content, array, ""),
    )
    return _finished(made, content, array)


def _parametric_map(content: ExamContent, array: ExportedArray, index: int | None) -> Dataset:
    """Return the parametric map of a volume, or of one echo of a series."""
    import highdicom as hd  # of the extra `dicom`

    values = array.values if index is None else array.values[index]
    variable = array.variable
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    kind = float if values.dtype.kind == "f" else int
    bounds = (kind(low), kind(high))
    unit = _UNITS.get(variable.unit) or Code(variable.unit, "UCUM", variable.unit)
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=variable.name[:16],
        lut_explanation=variable.description[:64],
        unit=unit,
        value_range=bounds,
        slope=1.0,
        intercept=0.0,
        quantity_definition=_QUANTITIES.get(variable.name),
    )
    middle = (bounds[0] + bounds[1]) / 2
    made = hd.pm.ParametricMap(
        pixel_array=_volume(content, array, values),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=middle, window_width=max(bounds[1] - bounds[0], 1.0)
            )
        ],
        **_common(content, array, "" if index is None else str(index)),
    )
    return _finished(made, content, array)


def _finished(made: Dataset, content: ExamContent, array: ExportedArray) -> Dataset:
    """Remove the references to headers that were never saved; add lineage, side and mark."""
    for frame in made.PerFrameFunctionalGroupsSequence:
        if "DerivationImageSequence" in frame:
            del frame.DerivationImageSequence
    for name in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if name in made:
            delattr(made, name)
    made.SeriesDescription = _description(content, array, "")
    made.ImageComments = json.dumps({**content.header(), **array.lineage})[:10240]
    made.BodyPartExamined = "KNEE"
    made.Laterality = content.knee[0].upper()
    if content.synthetic:
        made.add_new(0x0008001C, "CS", "YES")  # Synthetic Data
    return made


DICOM = Format(
    name="dicom",
    suffix=".dcm",
    each=Each.VARIABLE,
    content="labels as segmentations (SEG), images and maps as parametric maps, one for each echo, "
    "in one study for each exam, with a frame of reference for each group; needs the extra `dicom`",
    loses=_LOST + "; PatientID is the exam key; date, sex and birth date are empty; voxels without "
    "a mask are a segment of their own",
    readers="3D Slicer (QuantitativeReporting), OHIF, PACS, highdicom, dcmqi",
    refuse=refuse_dicom,
    writer=write_dicom,
    memory_factor=8.0,
    package=("highdicom", "dicom"),
)
