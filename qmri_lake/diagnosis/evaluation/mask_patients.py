"""Find test patients who were used to train the networks that made their masks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qmri_lake.core.text import counted
from qmri_lake.segmentation.models.members import DTYPES
from qmri_lake.segmentation.models.network import find_networks
from qmri_lake.store.runs import LEARNED_FROM, read_runs
from qmri_lake.store.status import UNKNOWN_RUN, read_input_runs, read_status

if TYPE_CHECKING:
    from qmri_lake.core.json_types import JsonObject
    from qmri_lake.lake.cohort import Cohort

__all__ = ["Folders", "MaskPatients", "find_mask_patients"]

Folders = Sequence[str | os.PathLike[str]]
_STEPS = {"segment_bones": "bone", "segment_cartilage": "cartilage"}
_NAMED = 3


@dataclass(frozen=True)
class MaskPatients:
    """Exams whose masks were made by networks that were trained on the same patient."""

    learned: NDArray[np.bool_]
    """(exam,): whether a network that made a mask of the exam was trained on the exam's patient."""
    patients: int
    """Number of patients of these exams."""
    of: int
    """Number of patients of all exams."""
    unknown: Mapping[str, int]
    """Number of exams for which `learned` is not known, by reason."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for a report on test patients who were used for training, if there are any."""
        notes = []
        if self.patients:
            notes.append(
                f"{self.patients} of {counted(self.of, 'test patient')} "
                f"({counted(int(self.learned.sum()), 'exam')}) "
                f"{'was' if self.patients == 1 else 'were'} used to train the networks that made "
                "their masks."
            )
        if self.unknown:
            reasons = "; ".join(f"{why} ({n:,})" for why, n in self.unknown.items())
            notes.append(
                "It is not known whether networks that made masks learned from the patients of "
                f"some test exams: {reasons}."
            )
        return tuple(notes)


def find_mask_patients(cohort: Cohort, networks: Folders = ()) -> MaskPatients:
    """Find the exams whose masks were made by networks that were trained on the same patient.

    A network is trained on the patients of its training and validation sets. The masks are those
    from which the spherical maps of an exam were computed. If the maps do not record these masks,
    as in earlier versions, the masks in the lake are used. Runs of segmentation record the patients
    of the training. For runs of earlier versions, they are read from the cards of `networks`.

    Parameters
    ----------
    cohort : Cohort
    networks : sequence of paths
        Folders of segmentation networks, as written by ``qmri-lake train``.

    Raises
    ------
    NotFoundError
        If a folder has no network.
    """
    given = _patients_of_networks(networks)
    root, length = cohort.lake.root, len(cohort.lake)
    runs = read_runs(root)
    patient = cohort.lake.patients[cohort.rows]
    learned = np.zeros(len(cohort), bool)
    reasons = np.full(len(cohort), "", dtype=object)
    for step, kind in _STEPS.items():
        status = read_status(root, step, length)
        current = np.where(status.usable, status.run, UNKNOWN_RUN)
        # The masks that were read for the maps, which may have been replaced since.
        read = read_input_runs(root, "sphere", step, length)
        numbers = np.where(read == UNKNOWN_RUN, current, read)[cohort.rows]
        for number in np.unique(numbers).tolist():
            these = numbers == number
            patients, why = _learned(runs.get(number), given)
            why = why or ("" if number in runs else f"no {kind} masks in the lake")
            learned |= these & np.isin(patient, list(patients))
            reasons[these & (reasons == "")] = why
    unknown = Counter(reasons[~learned & (reasons != "")].tolist())
    return MaskPatients(
        learned,
        len(np.unique(patient[learned])),
        len(np.unique(patient)),
        dict(sorted(unknown.items())),
    )


def _patients_of_networks(networks: Folders) -> dict[str, set[int]]:
    """Return the patients used to train networks, by the identity of the network in a run."""
    found = {}
    for folder in networks:
        for network in find_networks(folder):
            patients = network.learned_from
            if patients is not None:
                for dtype in DTYPES.values():
                    found[replace(network, dtype=dtype).identity] = patients
    return found


def _learned(record: JsonObject | None, given: Mapping[str, set[int]]) -> tuple[set[int], str]:
    """Return the patients used to train the networks of a run, and why others are unknown."""
    if record is None:
        return set(), ""
    if record["step"] == "import":
        return set(), "imported masks"
    note = record.get(LEARNED_FROM)
    patients: set[int] = set(note["patients"]) if note else set()
    unknown = []
    # A derived lake with new patient numbers does not name the networks.
    for identity in note["unknown"] if note else _networks(record):
        patients |= given.get(identity, set())
        if identity not in given:
            unknown.append(identity)
    if not unknown:
        return patients, ""
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return patients, f"masks by {', '.join(unknown[:_NAMED])}{more}, whose patients are not listed"


def _networks(record: JsonObject) -> list[str]:
    named = record.get("parameters", {}).get("models")
    return [str(name) for name in named] if isinstance(named, list) and named else ["networks"]
