"""Gradient estimates: a score for each module of the decoder, the choice of modules made from it, and the influence of
each song on a trained adapter.

Central names: `estimate.estimate`, `result.Estimate`, `selection.select`, `influence.influence`."""
