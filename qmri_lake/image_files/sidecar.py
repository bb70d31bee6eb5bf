"""JSON sidecars of image files, as dcm2niix writes them and BIDS defines them: times in seconds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from qmri_lake.core.json_types import JsonMapping, JsonObject
from qmri_lake.errors import InputError, Reason
from qmri_lake.image_files.formats import image_stem
from qmri_lake.oai.plausible import ECHO_TIME

__all__ = [
    "acquisition_parameters",
    "has_sidecar",
    "image_times",
    "parameter_fields",
    "read_sidecar",
    "time_field",
]

_PARAMETERS = {
    "repetition_time": ("RepetitionTime", 1e3),
    "flip_angle": ("FlipAngle", 1.0),
    "gradient_area": ("SpoilingGradientMoment", 1e3),
    "gradient_duration": ("SpoilingGradientDuration", 1e3),
}
"""Field of BIDS of each parameter, and the factor to its unit in a lake: ms, degrees, mT ms/m."""


def has_sidecar(path: str, root: str = "") -> bool:
    """Return whether a file has a sidecar; see `read_sidecar`."""
    return bool(_files(path, root))


def read_sidecar(path: str, root: str = "") -> JsonObject:
    """Return the fields of the sidecar of an image file; empty if there is none.

    Parameters
    ----------
    path : str
        The image. Its sidecar has the same name with the suffix ``.json``.
    root : str, optional
        Folder of a BIDS dataset. By its inheritance principle, sidecars in the folders above
        apply if their name ends in the same suffix and has only entities of the image. Nearer
        sidecars take precedence.

    Raises
    ------
    InputError
        If a sidecar is not a JSON object (``unreadable_file``).
    """
    fields: JsonObject = {}
    for file in _files(path, root):
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise _damaged(f"{file.name}: {type(error).__name__}", path) from None
        if not isinstance(content, dict):
            raise _damaged(f"{file.name} is not a JSON object", path)
        fields |= content
    return fields


def image_times(sidecar: JsonMapping, axis: str, where: str) -> tuple[float, ...]:
    """Return the times [ms] of the images of a file; empty if the sidecar does not state them.

    Parameters
    ----------
    sidecar : mapping
        Fields of the sidecar, in seconds.
    axis : str
        Axis of the images of the group: ``echo`` reads EchoTime or EchoTimes, ``spin_lock`` reads
        SpinLockTime or SpinLockTimes.
    where : str
        Location, for errors.

    Raises
    ------
    InputError
        If a time is not a number that a scanner can produce (``implausible_value``).
    """
    name = time_field(axis)
    shortest = 0.0 if axis == "spin_lock" else math.ulp(0.0)  # an image without spin lock
    stored = sidecar.get(f"{name}s", sidecar.get(name))
    if stored is None:
        return ()
    values = stored if isinstance(stored, list) else [stored]
    times = tuple(_number(value) * 1e3 for value in values)
    if all(math.isfinite(time) and shortest <= time <= ECHO_TIME.high for time in times):
        return times
    odd = next(v for v, t in zip(values, times, strict=True) if not shortest <= t <= ECHO_TIME.high)
    hint = ": milliseconds?" if _number(odd) * 1e3 > ECHO_TIME.high else ""
    raise InputError(
        f"{name} = {str(odd)[:40]}{hint}",
        expected=f"seconds, up to {ECHO_TIME.high / 1e3:g}",
        where=where,
        todo="Correct the JSON sidecar.",
        reason=Reason.IMPLAUSIBLE_VALUE,
    )


def time_field(axis: str) -> str:
    """Return the field with the times of the images along an axis, in seconds.

    >>> time_field("echo"), time_field("spin_lock")
    ('EchoTime', 'SpinLockTime')
    """
    return "".join(word.capitalize() for word in axis.split("_")) + "Time"


def parameter_fields(parameters: Mapping[str, float]) -> dict[str, float]:
    """Return the fields of a sidecar for parameters of the acquisition, in the units of BIDS."""
    return {
        _PARAMETERS[name][0]: value / _PARAMETERS[name][1] for name, value in parameters.items()
    }


def acquisition_parameters(sidecar: JsonMapping) -> dict[str, float]:
    """Return the parameters of the acquisition that a sidecar states, by name; NaN for others.

    They are the repetition time [ms], the flip angle [degrees], and the area [mT ms/m] and
    duration [ms] of the spoiler gradient.
    """
    return {
        name: _number(sidecar.get(field)) * factor for name, (field, factor) in _PARAMETERS.items()
    }


def _number(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else math.nan  # type: ignore[arg-type]


def _files(path: str, root: str) -> list[Path]:
    """Return the sidecars of an image, the most general first."""
    image = Path(path)
    own = Path(f"{image_stem(path)}.json")
    found = [own] if own.is_file() else []
    if not root:
        return found
    entities = _entities(Path(image_stem(image.name)).name)
    above: list[Path] = []
    for folder in image.parents:
        named = sorted(file for file in folder.glob("*.json") if file != own)
        above += [file for file in named if _applies(file.stem, entities)]
        if folder == Path(root):
            break
    return [*above[::-1], *found]


def _applies(stem: str, entities: tuple[frozenset[str], str]) -> bool:
    words, suffix = _entities(stem)
    return suffix == entities[1] and words <= entities[0] and bool(suffix)


def _entities(stem: str) -> tuple[frozenset[str], str]:
    """Return the entities of a BIDS name and its suffix."""
    *words, suffix = stem.split("_")
    named = frozenset(words)
    return (named, suffix) if all(re.fullmatch(r"\w+-\w+", w) for w in named) else (named, "")


def _damaged(found: str, path: str) -> InputError:
    return InputError(
        found,
        expected="a JSON object of fields",
        where=path,
        todo="Write the sidecar again, for example with dcm2niix.",
        reason=Reason.UNREADABLE_FILE,
    )
