"""Kinds of images that are not the signal of a scan: phase, computed maps, reformats ..."""

from __future__ import annotations

import re

from qmri_lake.oai.header import Header

__all__ = ["image_kind"]

_LOCALIZER = re.compile(r"LOCALI[SZ]ER|LOCATOR|SCOUT|PRESCRIPTION|SURVEY|(?<![A-Z])AAHEAD")
_REFORMAT = re.compile(
    r"(?<![A-Z])(CURVED|CSA|CS_)?[ _]?MPR(?![A-Z])|REFORMAT|RFMT|RESAMPLED|CSAPARALLEL"
)
_PROJECTION = re.compile(r"PROJECTION|(?<![A-Z])(MIP|(MIN|MAX)[ _]?M?IP|VRT)(?![A-Z])")
_MAP = re.compile(
    r"(?<!PHASE)(?<!PHASE[ _])MAP$|^(ADC|E?ADC|TRACEW?|FA|R1|R2|R2\*|R2STAR|T2STAR|T2\*)$"
)
"""Elements of ImageType after the second. ``T2 MAP`` is a map; so is Philips' ``T2MAP``."""
_NAMED_MAP = re.compile(r"T2_?CALC|(?<![A-Z])(T1RHO|T1|T2\*?|R2\*?|ADC|FA)[ _]?(IMAGES|PARAM)")
"""Names of maps: the OAI's, and those of Siemens' MapIt (T2_Images)."""
_COMPONENTS = {
    "phase": re.compile(r"P|P_.*|PHA|PHASE.*"),
    "real": re.compile(r"R|R_.*|REAL"),
    "imaginary": re.compile(r"I|I_.*|IMAG.*"),
}
_NAMED_COMPONENTS = {
    "phase": re.compile(r"(?<![A-Z])(PHA|PHASE)([ _]?IMAGES?)?$"),
    "real": re.compile(r"(?<![A-Z])REAL$"),
    "imaginary": re.compile(r"(?<![A-Z])IMAG(INARY)?$"),
}
"""Endings of a SeriesDescription, used if ImageType states no component."""


def image_kind(header: Header, series_description: str | None = None) -> str:
    """Return the kind of an image that is not the signal of a scan, or "" for a signal.

    ImageType is decisive. The name is used for what it states reliably: localizers, reformats,
    projections and computed maps, and a component (phase ...) that ImageType leaves open.

    Parameters
    ----------
    header : Header
        Header of the image.
    series_description : str, optional
        Name of the series. Default: the name in the header.

    Returns
    -------
    str
        ``localizer``, ``reformat``, ``projection``, ``mosaic``, ``phase``, ``real``,
        ``imaginary``, ``computed map``, ``derived image``, or "".
    """
    name = header.series_description if series_description is None else series_description
    name = name.upper().strip()
    parts = [part.strip() for part in header.image_type.upper().split("\\")]
    stated, special = parts[:2], parts[2:]
    anywhere = "\\".join(parts)
    if _LOCALIZER.search(name) or _LOCALIZER.search(anywhere):
        return "localizer"
    if _REFORMAT.search(name) or _REFORMAT.search(anywhere):
        return "reformat"
    if _PROJECTION.search(name) or any(map(_PROJECTION.search, special)):
        return "projection"
    if "MOSAIC" in special:
        return "mosaic"
    if any(map(_MAP.search, special)) or _NAMED_MAP.search(name):
        return "computed map"
    component = header.acquisition.component
    for kind, pattern in _COMPONENTS.items():
        if pattern.fullmatch(component) or any(map(pattern.fullmatch, special)):
            return kind
    if "M" not in special and not component:
        for kind, pattern in _NAMED_COMPONENTS.items():
            if pattern.search(name):
                return kind
    return "derived image" if {"DERIVED", "SECONDARY"} & set(stated) else ""
