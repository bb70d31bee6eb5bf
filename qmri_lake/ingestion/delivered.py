"""What an ingest needs of a delivered series, of DICOM or of other files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qmri_lake.oai.dicom import Volume
    from qmri_lake.oai.sequence import Sequence

__all__ = ["DeliveredSeries"]


class DeliveredSeries(Protocol):
    """One usable scan, described without decoding its values.

    `qmri_lake.oai.series.Series` and `qmri_lake.ingestion.image_series.ImageSeries` are such
    series. They can be pickled, and are read in the task that writes them.
    """

    @property
    def group(self) -> str:
        """Kind of series."""

    @property
    def patient(self) -> int:
        """Number of the patient."""

    @property
    def timepoint(self) -> int:
        """Months after enrolment."""

    @property
    def knee(self) -> str:
        """``left`` or ``right``."""

    @property
    def exam(self) -> str:
        """Exam key."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, in the dimensions of the group."""

    @property
    def sequence(self) -> Sequence:
        """Geometry and times."""

    @property
    def uid(self) -> str:
        """UID that recognises the series when it is delivered again."""

    @property
    def where(self) -> str:
        """Location relative to the source."""

    @property
    def parameters(self) -> Mapping[str, float]:
        """Parameters of the acquisition that the group stores; NaN if they are not stated."""

    @property
    def synthetic(self) -> bool:
        """Whether the series states that it is synthetic."""

    def read(self) -> Volume:
        """Read the values; raise `InputError` if they cannot be used."""
