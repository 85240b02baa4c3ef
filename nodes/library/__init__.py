"""Songs in ComfyUI's input folder: what is there, what may be uploaded, and a first training with it."""
