"""Presets: adapter and training settings under a name, ours and those of other trainers.

Central names: `preset.Preset`, `preset.read`, `foreign.translate`."""
