"""Adapters: their kinds, the layers that train, the files that hold them, and the proof that both agree.

Central names: `config.AdapterConfig`, `registry.attach`, `file.Adapter`, `formats.open_file`."""
