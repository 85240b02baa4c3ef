"""Demo of the whole path in a real ComfyUI, with a small random checkpoint and synthesised songs."""
