"""Cartilage labels from the DESS to the multi-echo (MSME) grid, and where the two series lie."""

from qmri_lake.registration.carry import carry_labels, share_inside
from qmri_lake.registration.rigid import Refinement, RegistrationStatus, refine_rigid
from qmri_lake.registration.step import register, register_exam

__all__ = [
    "Refinement",
    "RegistrationStatus",
    "carry_labels",
    "refine_rigid",
    "register",
    "register_exam",
    "share_inside",
]
