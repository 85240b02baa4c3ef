"""Songs: audio files and everything that people wrote about them.

Central names: `song.find_songs`, `song.SongFolder`, `metadata`, `sidecar_writer.write_sidecar`."""
