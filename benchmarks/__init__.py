"""Measurements, run by `python run.py bench [NAME]`; each ends with one line of JSON.

Machines are noisy: every figure is a ratio of two things measured in turn in one run.
"""
