"""Diagnosis: what spherical maps tell of osteoarthritis and pain."""
