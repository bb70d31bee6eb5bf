"""Numbers of patients, and months of the visits of the OAI."""

from __future__ import annotations

__all__ = ["PATIENTS", "VISIT_MONTHS"]

VISIT_MONTHS = {
    0: 0,
    1: 12,
    2: 18,
    3: 24,
    4: 30,
    5: 36,
    6: 48,
    7: 60,
    8: 72,
    9: 84,
    10: 96,
    11: 108,
}
"""Nominal months of the visits, by the number of the visit (V##)."""
PATIENTS = (1, 9_999_999_999)
"""Smallest and largest patient number. It has 7 digits in the OAI, up to 10 in other studies."""
