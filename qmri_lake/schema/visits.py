"""Numbers of patients, and months of the visits of the OAI."""

from __future__ import annotations

__all__ = ["ASSIGNED", "PATIENTS", "VISIT_MONTHS"]

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
ASSIGNED = (1_000_000_000, 9_999_999_999)
"""Smallest and largest number of patients whose identifier is not a number. All have 10 digits, so
that none is a number of the OAI, which has 7, or of a pseudonymised lake."""
