"""Spherical maps of a lake as images for PyTorch."""
