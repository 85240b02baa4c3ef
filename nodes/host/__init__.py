"""Everything that touches ComfyUI: its models, folders, patches and log, and the thread that a stage runs in."""
