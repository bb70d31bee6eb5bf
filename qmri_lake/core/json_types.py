"""Types of JSON objects: model cards, records of runs and settings, and data of pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["JsonMapping", "JsonObject"]

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as returned by `json.loads`. Code that reads it knows the type of each value."""

JsonMapping: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""
