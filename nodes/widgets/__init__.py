"""Inputs that several nodes share, and conversion of their values to settings of the core."""
