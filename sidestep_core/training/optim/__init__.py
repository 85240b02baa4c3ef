"""Optimizers, learning rates, and the moving average of the weights."""
