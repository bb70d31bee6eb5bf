"""Evaluate classifiers, and relate their class activation maps to outcomes."""
