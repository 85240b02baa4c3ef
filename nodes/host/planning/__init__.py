"""Plan of a training from the widgets of its workflow, without running anything."""
