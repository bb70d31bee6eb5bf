"""Correction of masks with 3D Slicer or ITK-SNAP: export, and import of the edited masks."""
