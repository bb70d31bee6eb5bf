"""Imaging protocol: which group a series belongs to, by its name and how it was acquired."""

from __future__ import annotations

import re
from collections.abc import Sequence as Values
from dataclasses import dataclass

from qmri_lake.oai.header import Header
from qmri_lake.oai.image_kind import image_kind
from qmri_lake.schema.groups import GROUPS

__all__ = [
    "ECHO_TIMES",
    "Evidence",
    "classify",
    "find_evidence",
    "formation_time",
    "ignored_kind",
    "is_spin_lock",
    "plain_name",
]

ECHO_TIMES = {"msme": (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)}
"""Echo times of a series of the OAI [ms]. [paper]"""

_OAI_NAME = re.compile(r"^(AX|COR|SAG)_(IW|T1|T2|3D)_")
_SIDE = re.compile(r"[_ ]*(LEFT|RIGHT)$")
_T2_CALC = re.compile(r"T2_?CALC")

_DESS = re.compile(
    r"(?<![A-Z])(Q|3D|T2|WE|FS)*DESS(3D|WE|FS)?(?![A-Z])|DE3D"
    r"|(DUAL|DOUBLE)[ _-]?ECHO[ _-]?STEADY[ _-]?STATE"
)
"""Names of the DESS: Siemens (DESS, de3d, t2_de3d_we), GE (qDESS), in words. [assumption]"""
_SECOND_ECHO = re.compile(
    r"(?<![A-Z])(ECHO|E)[ _-]?2(?!\d)|2(ND)?[ _-]?ECHO|SECOND[ _-]?ECHO|(?<![A-Z])(S2|PSIF)(?!\w)"
)
_LONGEST_DESS_ECHO = 15.0
"""Longest echo time of the first or the combined echo of a DESS [ms]. [assumption]

The OAI has 4.7 ms. The second echo forms 2 TR - TE after its excitation: 20 ms and more.
"""
_MULTI_ECHO = re.compile(
    r"T2[ _-]?MAP|(?<![A-Z])(MESE|MSME|CPMG|CARTIGRAM)(?![A-Z])|MULTI[ _-]?ECHO"
    r"|SE[ _-]?MC(?![A-Z])|ME[ _-]?SE(?![A-Z])|T2[ _-]?RELAX|T2[ _-]?MES"
)
"""Names of multi-echo spin-echo series. [assumption]"""
_SPIN_LOCK = re.compile(
    r"T1[ _-]?(RHO|\u03a1|\u00cf\u0081)|T1R(?![A-Z])|SPIN[ _-]?LOCK|(?<![A-Z])TSL(?![A-Z])|MAPSS"
)
"""Names of T1rho series; texts are read as Latin-1, which turns a rho in UTF-8 into two characters.
[assumption]"""
_T2_STAR = re.compile(
    r"[TR]2[ _-]?(\*|STAR)|(?<![A-Z])M(ULTI)?[ _-]?E(CHO)?[ _-]?(GRE|FFE|FGRE|SPGR)(?![A-Z])"
    r"|(?<![A-Z])(GRE|FFE)[ _-]?M(ULTI)?[ _-]?E(CHO)?(?![A-Z])|(?<![A-Z])MFFE(?![A-Z])"
)
"""Names of gradient-echo trains for T2*. [assumption]"""
_COMBINED_TRAIN = re.compile(r"(?<![A-Z])(MEDIC|MERGE)(?![A-Z])")
"""Names of gradient-echo trains that scanners usually combine to one image. [assumption]"""
_NO_T2_STAR = re.compile(r"DIXON|IDEAL|FIELD[ _-]?MAP|(?<![A-Z0-9])B[01](?![A-Z0-9])|SWI|QSM|BOLD")
"""Signs that a gradient-echo train was acquired for something else. [assumption]"""
_NOT_MULTI_SPIN_ECHO = re.compile(
    r"T2[ _-]?(\*|STAR)|R2[ _-]?(\*|STAR)|DIXON|IDEAL|FIELD[ _-]?MAP|(?<![A-Z0-9])B[01](?![A-Z0-9])"
    r"|(?<![A-Z])(ME)?GRE(?![A-Z])|(?<![A-Z])(UTE|SWI|QSM|MEDIC|MERGE|DWI|DTI|EPI|CEST|FFE|BOLD)"
    r"(?![A-Z])|MP(2)?RAGE|MEMPR|FLASH|DIFF"
)
_QUANTITATIVE = re.compile(rf"{_SPIN_LOCK.pattern}|(?<![A-Z])Q[ _-]?DESS")
"""Names of series that are of use in any study."""
_FEWEST_ECHOES = 3
"""A series with fewer echoes is a multi-echo series only by its name: a TSE may have two."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The group of a series, and what speaks against it."""

    group: str = ""
    """Empty: not known."""
    doubt: str = ""
    """Empty, or why the series isn't the image of the group: ``the second echo of a DESS``."""
    certain: bool = False
    """Whether the doubt holds even if the caller names the group."""


def classify(series_description: str) -> str:
    """Return the group of an OAI series name, or "" for other names.

    >>> classify("SAG_T2_MAP_RIGHT")
    'msme'
    """
    return GROUPS.named(series_description.upper())


def plain_name(text: str) -> str:
    """Return a description in upper case, without the side and with single blanks.

    >>> plain_name("SAG_3D_DESS_RIGHT") == plain_name("sag 3d dess")
    True
    """
    return " ".join(_SIDE.sub("", re.sub(r"[\s_]+", " ", text).upper().strip()).split())


def is_spin_lock(name: str) -> bool:
    """Whether a description names a T1rho series, whose images have spin-lock times."""
    return bool(_SPIN_LOCK.search(name.upper()))


def ignored_kind(
    header: Header,
    name: str,
    study: str,
    group: str | None = None,
    echo_times: Values[float] = (),
) -> str:
    """Return the kind of a series that is ignored, or "" if it can be of use.

    Localizers, reformats, computed maps, phase images and the like are always ignored. Other series
    of an OAI study are ignored unless they are DESS or T2 (multi-echo) series, or their name is
    that of a quantitative series; so are 2D gradient echoes, which are neither, unless the user
    names the group of the series.

    Parameters
    ----------
    header : Header
        Of its first file.
    name, study : str
        SeriesDescription and StudyDescription, of the header or of the listing.
    group : str, optional
        The group that the user requests.
    echo_times : sequence of float
        Milliseconds; empty if unknown.
    """
    text = _SIDE.sub("", name.upper())
    if _T2_CALC.search(text):
        return "T2_CALC"
    kind = image_kind(header, name)
    if kind in ("localizer", "reformat"):
        return kind
    if kind and not (kind == "derived image" and find_evidence(name, header, ()).group):
        return f"{kind} ({name or 'without a name'})"
    if classify(text) or _QUANTITATIVE.search(text) or _is_train(text, echo_times):
        return ""
    if _OAI_NAME.search(text) or study.upper().startswith("OAI"):
        return text or "series without a name"
    acquired = header.acquisition
    two = acquired.acquisition_type == "2D" and acquired.is_gradient_echo
    if two and not group and not _DESS.search(text):
        return f"2D gradient echo ({name or 'without a name'})"
    return ""


def formation_time(header: Header) -> float:
    """Return the echo time of an image [ms], from its header.

    The second echo of a DESS forms at 2 TR - TE after its excitation. Some headers repeat the time
    of the first echo, or count from the next pulse: the two echoes then differ in EchoNumbers only.
    """
    acquired, name = header.acquisition, header.series_description.upper()
    time, repetition = header.echo_time, acquired.repetition_time
    if header.echo_number != 2 or classify(name) or not 0 < time < repetition:
        return time
    if acquired.is_spin_echo or not (_DESS.search(name) or _DESS.search(acquired.sequence_name)):
        return time
    return 2 * repetition - time


def find_evidence(name: str, header: Header, echo_times: Values[float]) -> Evidence:
    """Return the group that the name and the acquisition of a series give evidence for.

    In a DESS series, the description or the sequence name names the DESS; with two echo times it is
    a qDESS. So is any steady state whose second echo forms after the repetition time. T1rho series
    and gradient-echo trains for T2* are known by their names. A multi-echo spin echo has at least
    three echo times and no sign of another sequence, or its name and at least two; no echo of it
    forms after the repetition time.

    Parameters
    ----------
    name : str
        SeriesDescription, of the header or of the listing.
    header : Header
        Of the first file.
    echo_times : sequence of float
        Milliseconds, or spin-lock times; empty if unknown, because a file is damaged.
    """
    text, acquired = name.upper(), header.acquisition
    group = classify(text) or _evidence_of_name(text, header, echo_times)
    if group == "dess" and _is_double_echo(text, header, echo_times):
        group = "qdess"
    if group and image_kind(header, name) == "derived image":
        return Evidence(group, f"a derived image (ImageType {header.image_type})", certain=True)
    if group in ("dess", "qdess"):
        return Evidence(group, _doubt_dess(text, header, echo_times))
    if group == "msme" and acquired.is_gradient_echo:
        return Evidence(group, "a gradient echo, not a spin echo")
    return Evidence(group)


def _evidence_of_name(text: str, header: Header, echo_times: Values[float]) -> str:
    """Return the group of a series whose name is not that of a declared group, or ""."""
    acquired = header.acquisition
    named = bool(_MULTI_ECHO.search(text))
    if _is_double_echo(text, header, echo_times):
        return "qdess"
    if not named and (_DESS.search(text) or _DESS.search(acquired.sequence_name.upper())):
        return "dess"
    if is_spin_lock(text):
        return "t1rho"
    if _is_train(text, echo_times) and not acquired.is_spin_echo:
        return "t2star"
    if _NOT_MULTI_SPIN_ECHO.search(text) or acquired.is_gradient_echo:
        return ""
    if acquired.repetition_time > 0 and max(echo_times, default=0) > acquired.repetition_time:
        return ""  # an echo after the next excitation is one of a steady state
    several = len(echo_times) >= (2 if named else _FEWEST_ECHOES)
    return "msme" if several or named else ""


def _is_train(text: str, echo_times: Values[float]) -> bool:
    """Whether a name, in upper case, is that of a gradient-echo train for T2*."""
    if _NO_T2_STAR.search(text):
        return False
    return bool(_T2_STAR.search(text) or (_COMBINED_TRAIN.search(text) and len(echo_times) > 1))


def _is_double_echo(text: str, header: Header, echo_times: Values[float]) -> bool:
    """Whether a series has the two echoes of a DESS."""
    acquired = header.acquisition
    if len(echo_times) != 2 or acquired.is_spin_echo or is_spin_lock(text):
        return False
    if _DESS.search(text) or _DESS.search(acquired.sequence_name.upper()):
        return True
    first, second = echo_times
    return first < acquired.repetition_time < second < 2 * acquired.repetition_time


def _doubt_dess(text: str, header: Header, echo_times: Values[float]) -> str:
    acquired = header.acquisition
    if acquired.is_spin_echo:
        return "a spin echo, not a DESS"
    if len(echo_times) != 1:
        return ""
    numbered = header.echo_number == 2 and not classify(text)
    longest = _LONGEST_DESS_ECHO
    if acquired.repetition_time > 0:
        longest = min(longest, acquired.repetition_time)
    if numbered or _SECOND_ECHO.search(text) or echo_times[0] > longest:
        return "the second echo of a DESS"
    return ""
