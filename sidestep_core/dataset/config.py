"""Settings of preprocessing."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Conditioning, Config, Normalise, TriggerPosition, require


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Config):
    """Settings that turn a folder of songs into a dataset."""

    trigger_word: str = ""
    """Trigger word put into every caption; a song's own (sidecar) takes its place."""
    trigger_position: TriggerPosition = "prepend"
    """Position of the trigger word; `replace` makes it the whole caption."""
    max_seconds: float = 0.0
    """Length to which longer songs are cut; 0 uses whole songs."""
    tile_seconds: float = 10.0
    """Seconds of audio that the VAE encodes at once; affects memory, never the result."""
    normalise: Normalise = "none"
    """none; peak: loudest sample at -1 dBFS; lufs: loudness at -14 LUFS, less where a true peak would pass -1 dBTP."""
    conditioning: Conditioning = "comfyui"
    """Program whose conditions are reproduced: ComfyUI, or the official program and diffusers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_seconds == 0 or self.max_seconds >= 1,
                f"max_seconds must be 0 (whole songs) or at least 1, got {self.max_seconds}.")
        require(self.tile_seconds >= 1, f"tile_seconds must be at least 1, got {self.tile_seconds}.")
        require(self.trigger_position != "replace" or bool(self.trigger_word.strip()),
                "trigger_position is 'replace' but trigger_word is empty, so every caption would be empty. Set one.")
