"""Estimates with intervals, and calibration. Pure; both evaluation and rules use it."""
