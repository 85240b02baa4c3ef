"""Comparisons of adapters: takes made by ComfyUI's own nodes, and their loudness."""
