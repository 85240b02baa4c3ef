"""Material that is never trained on, and the forward passes that measure it."""
