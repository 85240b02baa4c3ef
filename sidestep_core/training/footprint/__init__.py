"""Device memory of a running training: its use, and the steps down when it runs out."""
