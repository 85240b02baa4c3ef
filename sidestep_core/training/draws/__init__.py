"""Choices that a training makes for each of its draws."""
