"""Files: atomic writes, safetensors, hashes, bounded reads of JSON and text, locks.

Central names: `atomic.write_json`, `tensors.read_tensors`, `strict_json.read`, `hashing.fingerprint`, `locks.held`."""
