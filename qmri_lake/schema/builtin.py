"""Variables written by ingest, registration and networks: images, masks and clinical values."""

from __future__ import annotations

from qmri_lake import tissues
from qmri_lake.errors import VariableError
from qmri_lake.schema.groups import GROUPS, VOLUME_DIMS, Group
from qmri_lake.schema.privacy import Privacy
from qmri_lake.schema.registry import Registry
from qmri_lake.schema.variable import Flags, Variable

__all__ = ["REGISTRY", "declare_series", "series_variables"]


def series_variables(group: Group) -> list[Variable]:
    """Return the variables that ingest writes for a series.

    They are image, geometry and source, and, if the group has them, the times of the images of a
    scan and the parameters of the acquisition.
    """
    step = f"ingest_{group.name}"
    title = group.label
    words = group.image_axis.replace("_", "-")
    times = Variable(
        group.name,
        group.times or "echo_time",
        (group.image_axis or "echo",),
        "float64",
        f"{words.capitalize()} time",
        "ms",
        "no such echo" if group.has_echoes else f"no such {words} image",
        valid_range=(0, 1000),
        step=step,
    )
    parameters = [
        Variable(
            group.name,
            name,
            (),
            "float64",
            description,
            unit,
            "not stated in the header",
            valid_range=bounds,
            step=step,
        )
        for name, (description, unit, bounds) in _PARAMETERS.items()
        if name in group.parameters
    ]
    return [
        Variable(
            group.name,
            "image",
            group.dims,
            "float32",
            f"{title} signal, rescaled as in the DICOM header",
            fill_meaning="beyond the image's extent",
            step=step,
        ),
        Variable(
            group.name,
            "affine",
            ("world", "voxel"),
            "float64",
            "Voxel index (slice, row, column, 1) to LPS world coordinates, voxel centres",
            unit="mm",
            fill_meaning="no image",
            step=step,
        ),
        Variable(
            group.name,
            "extent",
            ("axis",),
            "int16",
            "True number of slices, rows and columns; beyond it is fill",
            fill_meaning="no image",
            valid_range=(1, 4096),
            step=step,
        ),
        Variable(
            group.name,
            "series_uid",
            (),
            "string",
            "DICOM SeriesInstanceUID of the source",
            fill_meaning="no image",
            step=step,
            privacy=Privacy.UID,
        ),
        Variable(
            group.name,
            "digest",
            (),
            "string",
            "SHA-256 of the source's pixels and geometry, independent of file order",
            fill_meaning="no image",
            step=step,
            privacy=Privacy.UID,  # whoever has the source can find the exam by it
        ),
        *([times] if group.has_several_images else []),
        *parameters,
    ]


_PARAMETERS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "repetition_time": ("Repetition time TR", "ms", (0, 100_000)),
    "flip_angle": ("Nominal flip angle of the excitation", "degrees", (0, 360)),
    "gradient_area": ("Area of the spoiler gradient of one repetition", "mT ms m-1", (0, 10_000)),
    "gradient_duration": ("Duration of the spoiler gradient", "ms", (0, 1_000)),
}


def _labels(group: str, name: str, description: str, flags: Flags, step: str) -> Variable:
    return Variable(
        group,
        name,
        VOLUME_DIMS,
        "uint8",
        description,
        fill_meaning="no mask",
        flags=flags,
        step=step,
    )


def _ensemble_variables(name: str, step: str) -> list[Variable]:
    """Return the variables stored beside the labels of an ensemble."""
    return [
        Variable(
            "dess",
            f"{name}_uncertainty",
            VOLUME_DIMS,
            "float32",
            f"Share of the ensemble's members whose label differs from `{name}`, before small "
            "pieces are removed",
            "",
            "a single member, or not segmented by an ensemble",
            valid_range=(0, 1),
            step=step,
        ),
        Variable(
            "dess",
            f"{name}_removed",
            (),
            "int32",
            f"Voxels of `{name}` in small pieces that were set to background",
            "",
            "not computed",
            valid_range=(0, 1_000_000_000),
            step=step,
        ),
    ]


def _parts() -> list[Variable]:
    """Return the medial and lateral parts of tissues, which are stored if a source tells them."""
    return [
        Variable(
            "dess",
            f"{name}_part",
            VOLUME_DIMS,
            "uint8",
            f"Part of the tibial cartilage and menisci of `{name}`: medial or lateral",
            fill_meaning="no mask, or a source that does not tell the parts",
            flags=tissues.PART,
            step=f"import_{name}_part",
        )
        for name in ("cartilage", "reference_cartilage")
    ]


_TRANSFORM_SOURCE = {"scanner": 0, "refined": 1, "not_improved": 2, "implausible": 3}


_SEX = {"male": 1, "female": 2}


_YES_NO = {"no": 0, "yes": 1}


def _clinical(group: str) -> list[Variable]:
    """Return the clinical columns, which visits and exams have in common."""
    step = "ingest_clinical"

    def column(
        name: str,
        description: str,
        unit: str = "",
        bounds: tuple[float, float] | None = None,
        privacy: Privacy | None = None,
    ) -> Variable:
        return Variable(
            group,
            name,
            (),
            "float32",
            description,
            unit,
            "not measured",
            valid_range=bounds,
            step=step,
            privacy=privacy,
        )

    def flag(name: str, description: str, flags: Flags, privacy: Privacy | None = None) -> Variable:
        return Variable(
            group,
            name,
            (),
            "uint8",
            description,
            fill_meaning="not known",
            flags=flags,
            step=step,
            privacy=privacy,
        )

    person = Privacy.CHARACTERISTIC
    return [
        column("age", "Age at the visit: age at enrolment + days / 365.25", "a", (0, 120), person),
        flag("sex", "Sex", _SEX, person),
        column(
            "bmi",
            "Body mass index, last measured at or before the visit",
            "kg m-2",
            (8, 90),
            person,
        ),
        column("days", "Days from enrolment to the visit", "d", (-400, 6000), Privacy.INTERVAL),
        column("kl", "Kellgren-Lawrence grade of the knee", "", (0, 4)),
        column("womac_pain", "WOMAC pain score of the knee", "", (0, 20)),
        column("koos_pain", "KOOS pain score of the knee, 100 is no pain", "", (0, 100)),
        flag(
            "pain_most_days_12m",
            "Pain on more than half the days of a month, past 12 months (KPR12CV)",
            _YES_NO,
        ),
        flag("pain_any_12m", "Any pain, past 12 months (KPNR12)", _YES_NO),
        column(
            "pain_months_12m",
            "Months with pain on more than half the days, past 12 months (KPNR12M)",
            "",
            (0, 12),
        ),
        flag(
            "pain_frequent_30d", "Pain on more than half the days, past 30 days (KPR30CV)", _YES_NO
        ),
        flag("replaced", "Whether the knee had been replaced by this visit", _YES_NO),
    ]


REGISTRY = Registry(
    [
        *(v for group in GROUPS if group.dims for v in series_variables(group)),
        _labels("dess", "bone", "Bone labels", tissues.BONE, "segment_bones"),
        *_ensemble_variables("bone", "segment_bones"),
        _labels(
            "dess",
            "cartilage",
            "Cartilage and meniscus labels",
            tissues.CARTILAGE,
            "segment_cartilage",
        ),
        *_ensemble_variables("cartilage", "segment_cartilage"),
        _labels(
            "dess",
            "reference_bone",
            "Imported manual bone labels, for training and evaluation of networks",
            tissues.BONE,
            "import_reference_bone",
        ),
        _labels(
            "dess",
            "reference_cartilage",
            "Imported manual cartilage and meniscus labels, for training and evaluation",
            tissues.CARTILAGE,
            "import_reference_cartilage",
        ),
        *_parts(),
        Variable(
            "msme",
            "dess_to_msme",
            ("world", "voxel"),
            "float64",
            "Rigid transform x_msme = T x_dess in LPS world coordinates",
            "mm",
            "not registered",
            step="register",
        ),
        Variable(
            "msme",
            "mutual_information_before",
            (),
            "float64",
            "Mutual information of DESS and mean echo near cartilage, in the scanner's geometry",
            "nat",
            "not computed",
            step="register",
        ),
        Variable(
            "msme",
            "mutual_information_after",
            (),
            "float64",
            "Mutual information of DESS and mean echo near cartilage, with `dess_to_msme`",
            "nat",
            "not computed",
            step="register",
        ),
        Variable(
            "msme",
            "registration_status",
            (),
            "uint8",
            "Source of `dess_to_msme`",
            fill_meaning="not registered",
            flags=_TRANSFORM_SOURCE,
            step="register",
        ),
        _labels(
            "msme",
            "cartilage",
            "Cartilage and meniscus labels on the MSME grid",
            tissues.CARTILAGE,
            "register",
        ),
        Variable(
            "visit",
            "patient",
            (),
            "int64",
            "Patient number",
            step="ingest_clinical",
            privacy=Privacy.PATIENT,
        ),
        Variable(
            "visit",
            "timepoint",
            (),
            "int16",
            "Months after enrolment, nominal",
            "",
            step="ingest_clinical",
            privacy=Privacy.INTERVAL,
        ),
        Variable(
            "visit",
            "knee",
            (),
            "string",
            "Side of the knee: left or right",
            step="ingest_clinical",
            privacy=Privacy.WORD,
        ),
        *_clinical("visit"),
        *_clinical("clinical"),
        Variable(
            "clinical",
            "made_from",
            (),
            "uint8",
            "Source of the exam: delivered files, or the truth of a synthetic knee (no image, no "
            "network, no fit)",
            fill=0,
            fill_meaning="delivered",
            flags={"delivered": 0, "truth": 1},
            step="ingest_truth",
        ),
        Variable(
            "clinical",
            "study_id",
            (),
            "string",
            "Identifier of the patient as the study writes it, such as P007",
            fill_meaning="the patient number itself",
            privacy=Privacy.PATIENT,
        ),
        Variable(
            "clinical",
            "synthetic",
            (),
            "uint8",
            "Whether the exam is synthetic: stated by its DICOM headers, or made from truth",
            fill_meaning="not stated",
            flags=_YES_NO,
        ),
    ]
)
"""Variables of the package itself. A step adds its variables when the step is declared."""


def declare_series(group: Group) -> Group:
    """Declare a kind of series: its group, and the variables that ingest writes.

    Call it in the module of a step that reads the series. Declaring the same series again has no
    effect.

    Raises
    ------
    VariableError
        If the group has no image dimensions, or if another group of that name exists.
    """
    if not group.dims:
        raise VariableError(
            "no image dimensions",
            expected=f"dims that end with {', '.join(VOLUME_DIMS)}",
            where=f"group {group.name}",
        )
    known = GROUPS.add(group)
    for variable in series_variables(known):
        REGISTRY.add(variable)
    return known
