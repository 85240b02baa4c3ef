"""What the page asks for: live progress, history, songs and presets."""
