"""Registration of the DESS to any declared series: a step made from the group of the series."""

from __future__ import annotations

import xarray as xr

from qmri_lake.execution.step import Step, step
from qmri_lake.registration.label_transfer import MaskRule
from qmri_lake.registration.rigid import RegistrationStatus
from qmri_lake.schema.groups import GROUPS
from qmri_lake.schema.variable import VOLUME_DIMS, Variable
from qmri_lake.steps._registration import (
    Method,
    check_registration,
    registered_series,
    series_reads,
)
from qmri_lake.tissues import CARTILAGE

__all__ = ["registration_step"]


def _variables(group: str) -> list[Variable]:
    """Return the variables of a registration, like those of the multi-echo series."""
    title = GROUPS[group].label
    return [
        Variable(
            group,
            f"dess_to_{group}",
            ("world", "voxel"),
            "float64",
            f"Rigid transform x_{group} = T x_dess in LPS world coordinates",
            "mm",
            "not registered",
        ),
        *(
            Variable(
                group,
                f"mutual_information_{when}",
                (),
                "float64",
                f"Mutual information of DESS and mean {title} image near cartilage, {how}",
                "nat",
                "not computed",
            )
            for when, how in (
                ("before", "in the scanner's geometry"),
                ("after", f"with `dess_to_{group}`"),
            )
        ),
        Variable(
            group,
            "registration_status",
            (),
            "uint8",
            f"Source of `dess_to_{group}`",
            fill_meaning="not registered",
            flags={status.name.lower(): int(status) for status in RegistrationStatus},
        ),
        Variable(
            group,
            "cartilage",
            VOLUME_DIMS,
            "uint8",
            f"Cartilage and meniscus labels on the {title} grid",
            fill_meaning="no mask",
            flags=CARTILAGE,
        ),
    ]


def registration_step(group: str) -> Step:
    """Declare the step ``register_GROUP``, which transfers cartilage labels to a series.

    Parameters
    ----------
    group : str
        A declared group with images, other than the DESS.

    Returns
    -------
    Step
        It writes `cartilage`, ``dess_to_GROUP``, `registration_status` and the mutual information
        before and after, and has the parameters of `qmri_lake.register`.
    """
    name = f"register_{group}"

    def check(*, method: object, mask: object) -> None:
        check_registration(f"step {name}", method=method, mask=mask)

    def reads(*, method: Method, **_: object) -> dict[str, tuple[str, ...]]:
        return series_reads(group, method)

    def transfer(
        dess: xr.Dataset,
        series: xr.Dataset,
        *,
        method: Method = "mutual_information",
        mask: MaskRule = "half",
    ) -> xr.Dataset:
        return registered_series(dess, series, group, method=method, mask=mask)

    transfer.__name__ = name
    transfer.__doc__ = (
        f"Transfer the cartilage labels of one exam to its {GROUPS[group].label} images; the "
        "parameters are those of `register`."
    )
    return step(reads=reads, writes=_variables(group), name=name, validate=check)(transfer)
