"""Bring images, masks and clinical tables into a lake."""
