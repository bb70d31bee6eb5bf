"""BIDS: a dataset of images, with maps and labels as a dataset of derivatives inside it.

BIDS is made for brains. It has no entity for the side of a knee and no suffix for DESS. The label
of the acquisition therefore names series and side, ``acq-dessRight``, and a DESS has the suffix
``T2w``, the nearest of the closed list. Images of other series are numbered by ``echo``; those of
T1rho state a SpinLockTime instead of an EchoTime. [assumption]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from qmri_lake.core.atomic_write import atomic_write_text
from qmri_lake.core.json_types import JsonObject
from qmri_lake.core.version import __version__
from qmri_lake.exporting.exam_content import ExamContent, ExportedArray
from qmri_lake.exporting.format_declaration import (
    Each,
    Finished,
    Format,
    Written,
    refuse_other_than_volumes,
)
from qmri_lake.exporting.nifti_files import sidecar, write_image
from qmri_lake.exporting.nrrd_files import colour_of
from qmri_lake.exporting.unsegmented import unsegmented
from qmri_lake.image_files.sidecar import time_field
from qmri_lake.schema.variable import VOLUME_DIMS, Variable

__all__ = ["BIDS", "BIDS_VERSION", "MAP_SUFFIXES"]

BIDS_VERSION = "1.10.0"
DERIVATIVES = "derivatives/qmri_lake"
"""Folder of maps and labels, which is a dataset of derivatives."""

MAP_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        "t1": "T1map",
        "t2": "T2map",
        "t2star": "T2starmap",
        "t1rho": "T1rho",
        "s0": "S0map",
        "m0": "M0map",
        "pd": "PDmap",
    }
)
"""Suffixes of BIDS by the name of a map. `r2` of a lake is no rate, and has none."""
_ECHO_SUFFIXES: Mapping[str, str] = MappingProxyType({"msme": "MESE", "t2star": "MEGRE"})
_OTHER_IMAGE = "T2w"
_LABELS = "dseg"


def suffix_of(variable: Variable) -> str:
    """Return the suffix of BIDS of a variable; "" if BIDS has none."""
    if variable.name == "image":
        return _ECHO_SUFFIXES.get(variable.group, _OTHER_IMAGE)
    if variable.flags is not None:
        return _LABELS if "background" in variable.flags else ""
    return MAP_SUFFIXES.get(variable.name, "")


def refuse_without_suffix(variable: Variable) -> str:
    """Return why BIDS cannot hold a variable; "" if it can."""
    if reason := refuse_other_than_volumes(variable):
        return reason
    return "" if suffix_of(variable) else "has no suffix in BIDS"


def write_bids(content: ExamContent, paths: Sequence[str], stem: Path) -> Written:
    """Write the volumes of one exam into ``sub-*/ses-*/anat``; `stem` is in the folder."""
    written = Written()
    subject, session = f"sub-{content.patient}", _session(content.timepoint)
    for path in paths:
        array = content.read(path)
        if reason := unsegmented(array, written):
            written.left_out[path] = reason
            continue
        suffix = suffix_of(array.variable)
        dataset = stem.parent if array.variable.name == "image" else stem.parent / DERIVATIVES
        folder = dataset / subject / session / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{subject}_{session}_acq-{array.variable.group}{content.knee.capitalize()}"
        for echo, part in _echoes(array):
            entities = f"{name}_echo-{echo}" if echo else name
            if description := _description(array, suffix):
                entities += f"_desc-{description}"
            base = folder / f"{entities}_{suffix}"
            image = base.with_name(f"{base.name}.nii.gz")
            about = base.with_name(f"{base.name}.json")
            stored, unit = _in_seconds(part, suffix)
            written.losses += write_image(stored, image, content.header())
            text = _sidecar(array, content, suffix, unit, echo)
            atomic_write_text(about, json.dumps(text, indent=2) + "\n")
            written.files += [image, about]
            if suffix == _LABELS:
                table = base.with_name(f"{base.name}.tsv")
                atomic_write_text(table, _label_table(array))
                written.files.append(table)
        if suffix != _LABELS and array.variable.unit == "ms":
            written.losses.append(f"{path} is in seconds, as BIDS requires, rounded to float32")
    return written


def _session(timepoint: int) -> str:
    return f"ses-{timepoint:03d}m"


def _echoes(array: ExportedArray) -> list[tuple[int, ExportedArray]]:
    """Return the images of a series with their numbers, from 1; 0 for a series of one volume."""
    if not array.image_axis:
        return [(0, array)]
    plain = replace(array.variable, dims=VOLUME_DIMS)
    return [
        (n + 1, replace(array, values=values, variable=plain, times=None))
        for n, values in enumerate(array.values)
    ]


def _description(array: ExportedArray, suffix: str) -> str:
    """Return the label of ``desc``: the name of labels, and the variant; letters and digits."""
    name, _, variant = array.name.partition("__")
    text = f"{name if suffix == _LABELS else ''} {variant}"
    return "".join(c for c in text if c.isalnum())


def _in_seconds(array: ExportedArray, suffix: str) -> tuple[ExportedArray, str]:
    """Return a map with its unit in BIDS: times are in seconds."""
    unit = array.variable.unit
    if suffix == _LABELS or unit != "ms":
        return array, unit or "arbitrary"
    seconds = (array.values.astype(np.float64) / 1000).astype(np.float32)
    return replace(array, values=seconds), "s"


def _sidecar(
    array: ExportedArray, content: ExamContent, suffix: str, unit: str, echo: int
) -> JsonObject:
    """Return the metadata of an image, with the fields that BIDS requires."""
    about = sidecar(array, content)
    times = time_field(array.image_axis)
    for name in (times, f"{array.image_axis}_times_ms", "units"):
        about.pop(name, None)
    about["knee"] = content.knee
    about["Description"] = array.variable.description
    if suffix == _LABELS:
        about["Manual"] = array.variable.name.startswith("reference_")
    else:
        about["SkullStripped"] = False
        about["Units"] = unit
    if array.variable.name == "image" and suffix == _OTHER_IMAGE:
        about["PulseSequenceType"] = array.variable.group.upper()
    if echo and array.times is not None:
        about[times] = float(array.times[echo - 1] / 1000)
    return about


def _label_table(array: ExportedArray) -> str:
    """Return the look-up table of labels: index, name and colour."""
    lines = ["index\tname\tcolor"]
    for value, name in sorted(array.labels.items()):
        colour = (0, 0, 0) if name == "background" else colour_of(name, value)
        lines.append(f"{value}\t{name.replace(' ', '_')}\t#{''.join(f'{c:02X}' for c in colour)}")
    return "\n".join(lines) + "\n"


def finish_bids(finished: Finished) -> list[Path]:
    """Write the files of both datasets: descriptions, participants, sessions and a README."""
    mark = " Synthetic data." if any(finished.synthetic) else ""
    lake, snapshot = finished.about["lake"], finished.about["snapshot"]
    program = {
        "Name": "qmri_lake",
        "Version": __version__,
        "Description": f"Snapshot {snapshot} of {lake}.{mark}",
    }
    readme = (
        f"# Knees of {lake}\n\nExported by qmri_lake {__version__} from snapshot {snapshot}."
        f"{mark}\n\nThe label acq names the series and the side of the knee, such as "
        "acq-dessRight; ses is the month of the visit. BIDS has no suffix for DESS, which has T2w "
        "here. Maps and labels are in derivatives/qmri_lake. Maps are in seconds. In labels, 255 "
        "is a voxel without a mask.\n"
    )
    files = _participants(finished) | {".bidsignore": "manifest.*\nsummary.*\n"}
    for folder, kind in (("", "raw"), (f"{DERIVATIVES}/", "derivative")):
        about = {
            "Name": f"Knees of {lake}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": kind,
            "GeneratedBy": [program],
        }
        files[f"{folder}dataset_description.json"] = json.dumps(about, indent=2) + "\n"
        files[f"{folder}README.md"] = readme
    made = []
    for name, text in files.items():
        path = finished.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
        made.append(path)
    return made


def _participants(finished: Finished) -> dict[str, str]:
    """Return the tables of participants and of their sessions, with their dictionaries."""
    visits: dict[int, set[int]] = {}
    synthetic: dict[int, bool] = {}
    for patient, timepoint, marked in zip(
        finished.patients, finished.timepoints, finished.synthetic, strict=True
    ):
        visits.setdefault(patient, set()).add(timepoint)
        synthetic[patient] = synthetic.get(patient, False) or marked
    rows = [f"sub-{p}\t{'yes' if synthetic[p] else 'n/a'}" for p in sorted(visits)]
    columns = {
        "synthetic": {
            "Description": "Whether exams are marked as synthetic; n/a: not marked",
            "Levels": {"yes": "synthetic"},
        }
    }
    months = {"months": {"Description": "Months after enrolment", "Units": "month"}}
    files = {
        "participants.tsv": "\n".join(["participant_id\tsynthetic", *rows]) + "\n",
        "participants.json": json.dumps(columns, indent=2) + "\n",
    }
    for patient in sorted(visits):
        stem = f"sub-{patient}/sub-{patient}_sessions"
        lines = [f"{_session(month)}\t{month}" for month in sorted(visits[patient])]
        files[f"{stem}.tsv"] = "\n".join(["session_id\tmonths", *lines]) + "\n"
        files[f"{stem}.json"] = json.dumps(months, indent=2) + "\n"
    return files


BIDS = Format(
    name="bids",
    suffix="",
    each=Each.EXAM,
    content="a dataset of images (multi-echo images as `MESE`, one file for each echo), and inside "
    "it derivatives: maps (`T2map`, `T1rho`, `T2starmap`, `S0map`) and labels (`dseg`)",
    loses="maps are in seconds, rounded to float32; maps without a suffix in BIDS, such as errors "
    "and states, are left out; the side is in the label `acq`",
    readers="BIDS apps, `bids-validator`, PyBIDS, qMRLab",
    refuse=refuse_without_suffix,
    writer=write_bids,
    pattern="{exam}",
    fixed_names=True,
    memory_factor=4.0,
    finish=finish_bids,
)
