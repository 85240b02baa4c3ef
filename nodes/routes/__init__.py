"""Answers to the page: live progress, history, songs and presets."""
