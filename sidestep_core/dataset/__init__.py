"""Datasets: songs encoded once, stored as tensors, and kept sound.

Central names: `preprocess.preprocess`, `manifest.Dataset`, `manifest.open_dataset`."""
