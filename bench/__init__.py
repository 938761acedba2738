"""Measurements of speed and size: run by hand, never part of a test."""
