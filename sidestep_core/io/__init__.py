"""Files: atomic writes, bounded reads, checksums and locks.

Central names: `atomic.write_json`, `atomic.write_tensors`, `strict_json.read`, `locks`."""
