"""Rigid registration of DESS and multi-echo (MSME) images, and transfer of cartilage labels."""

from qmri_lake.registration.label_transfer import share_inside, transfer_labels
from qmri_lake.registration.rigid import Refinement, RegistrationStatus, refine_rigid

__all__ = [
    "Refinement",
    "RegistrationStatus",
    "refine_rigid",
    "share_inside",
    "transfer_labels",
]
