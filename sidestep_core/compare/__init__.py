"""Comparisons: the same prompt and seed with several adapters and strengths, to choose one by ear."""
