"""The embedded default: a tiny random checkpoint, synthesised songs, and the demo run in a real ComfyUI."""
