"""Check that the images of a series have pixels of one kind and form one volume."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

from qmri_lake.core.text import counted
from qmri_lake.errors import InputError, Reason
from qmri_lake.oai.enhanced import FACETS
from qmri_lake.oai.header import Header

__all__ = ["check_agreement", "check_numbers", "find_volumes"]


def check_agreement(images: Sequence[Header], where: str) -> None:
    """Raise an error if stored values have different meanings in different images.

    The slope may differ between images, as scanners scale slice by slice. The intercept of
    magnitude images may not differ, because it is the stored value of no signal.

    Raises
    ------
    InputError
        With reason ``mixed_pixels``. The message names the smaller group of images.
    """
    kinds = Counter(map(_kind, images))
    if len(kinds) == 1:
        return
    (usual, _), *others = kinds.most_common()
    odd = next(image for image in images if _kind(image) != usual)
    found, expected = next((a, b) for a, b in zip(_kind(odd), usual, strict=True) if a != b)
    raise InputError(
        f"{counted(sum(n for _, n in others), 'image')} with {found}, first {odd.name}",
        expected=f"{expected}, as in the others",
        where=where,
        todo="Export the series again; its images are stored in different ways.",
        reason=Reason.MIXED_PIXELS,
    )


def _kind(image: Header) -> tuple[str, ...]:
    pixels = image.pixels
    has_slope, has_intercept, unit = image.rescaling
    return (
        f"{pixels.bits_stored} of {counted(pixels.bits, 'bit')}",
        "signed pixels" if pixels.signed else "unsigned pixels",
        "a RescaleSlope" if has_slope else "no RescaleSlope",
        f"RescaleIntercept = {image.intercept:g}" if has_intercept else "no RescaleIntercept",
        f"RescaleType = {unit or 'absent'}",
    )


def check_numbers(lines: Sequence[Sequence[Header]], where: str) -> None:
    """Raise an error if the numbers of echoes and slices contradict echo times and positions.

    Parameters
    ----------
    lines : sequence of sequence of Header
        Images of each echo, in the order of their positions.
    where : str
        Location of the series.

    Raises
    ------
    InputError
        With reason ``inconsistent_geometry``.
    """
    # A scan may have several series, each of which numbers its own echoes.
    for uid in sorted({image.uid for line in lines for image in line}):
        found = [{image.echo_number for image in line if image.uid == uid} for line in lines]
        numbers = [line for line in found if line]
        distinct = set().union(*numbers)
        if len(distinct) == 1 or any(map(math.isnan, distinct)):
            continue
        if not len(distinct) == len(numbers) == sum(map(len, numbers)):
            raise _contradiction("EchoNumbers", "EchoTime", where)
    for line in lines:
        steps = [b.slice_location - a.slice_location for a, b in itertools.pairwise(line)]
        # Without numbers, or with one number for all slices, there is nothing to compare.
        if 0 in steps or any(map(math.isnan, steps)):
            continue
        if len({step > 0 for step in steps}) > 1:
            raise _contradiction("SliceLocation", "ImagePositionPatient", where)


def _contradiction(number: str, value: str, where: str) -> InputError:
    return InputError(
        f"{number} contradicts {value}",
        expected=f"{number} in the order of {value}, or absent",
        where=where,
        todo="Correct the headers, or export the series again.",
        reason=Reason.INCONSISTENT_GEOMETRY,
    )


def find_volumes(
    images: Sequence[Header], is_volume: Callable[[Sequence[Header]], bool], where: str
) -> InputError | None:
    """Return an error if images form several volumes instead of one, else None.

    Parameters
    ----------
    images : sequence of Header
        Images that form no volume together.
    is_volume : callable
        Whether images form a volume.
    where : str
        Location of the series.
    """
    if not all(image.facets for image in images):
        return None
    names = [*FACETS, "frame type"]
    values = list(zip(*(image.facets for image in images), strict=True))
    several = [k for k in range(len(names)) if len(set(values[k])) > 1]
    for chosen in (*([k] for k in several), several):
        parts: dict[tuple[str, ...], list[Header]] = {}
        for image in images:
            parts.setdefault(tuple(image.facets[k] for k in chosen), []).append(image)
        if len(parts) > 1 and all(map(is_volume, parts.values())):
            found = ", ".join(counted(len(set(values[k])), names[k]) for k in chosen)
            return InputError(
                f"{len(parts)} volumes in one series: {found}",
                expected="one volume",
                where=where,
                todo="Export each volume as a series of its own.",
                reason=Reason.SEVERAL_VOLUMES,
            )
    return None
