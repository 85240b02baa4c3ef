"""Songs: audio files and their metadata, analysis and splitting.

Central names: `scan.find_songs`, `song.SongFolder`, `metadata`, `sidecar_writer.write_sidecar`."""
