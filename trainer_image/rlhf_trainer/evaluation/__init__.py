"""Judging models: statistics, text measures, judges, the table of an evaluation, gates, calibration."""
