"""Judges of histories: pure functions from operations to findings."""
