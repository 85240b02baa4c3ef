"""Audio: decoding, container facts and tags, and measurements of sound.

Central names: `decode.decode`, `container.facts`, `loudness`, `tempo`, `key`."""
