"""Facts of a training before it begins: size, memory, time."""
