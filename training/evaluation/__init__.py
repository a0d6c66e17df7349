"""Metrics, intervals, baselines and calibration."""
