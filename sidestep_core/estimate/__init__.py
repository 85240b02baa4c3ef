"""Gradient estimates: a score for each module of the decoder, and the choice of modules made from it.

Central names: `estimate.estimate`, `result.Estimate`, `selection.select`."""
