"""Settings of songs: of their list (songs.defaults.BuildConfig), analysis (songs.analyze.AnalyzeConfig) and encoding
(dataset.config.PreprocessConfig)."""

from __future__ import annotations

from .setting import Setting, Settings

BUILD: Settings = {
    "trigger_word": Setting(
        "A made-up word put into every caption; write it into your prompt later to call the style. A song with its own "
        "trigger word keeps it."),
    "trigger_position": Setting("The trigger word before the caption, after it, or instead of it."),
    "genre_ratio": Setting(
        "Chance that a song is trained with its genre in place of its caption: 0.2 is one time in five. Used if "
        "genre_ratio of the training is automatic.", 0.0, 1.0, 0.05),
    "prompt_override": Setting(
        "caption, genre: train all songs on that, unless a song has its own setting. Left out: only the songs' own "
        "settings."),
    "all_instrumental": Setting("Train all songs as instrumentals, even if they have lyrics."),
    "language": Setting("Language of the lyrics, for songs without one of their own: en, de, ja ..."),
}

ANALYZE: Settings = {
    "fill": Setting(
        "missing: fill in estimates where a value is missing. all: replace your values, too. nothing: only report "
        "them."),
    "confidence": Setting("Lowest confidence of an estimate that is used. 0 uses every one.", 0.0, 1.0, 0.05),
}

PREPROCESS: Settings = {
    "trigger_word": Setting(
        "A made-up word put into every caption. Write it into your prompt later to call the style."),
    "trigger_position": Setting("Before the caption, after it, or instead of it."),
    "max_seconds": Setting("Seconds of each song to use, from its start."),
    "tile_seconds": Setting(
        "Seconds of audio encoded at once. Lower it if memory runs out; the result stays the same.", 1.0, 600.0, 1.0),
    "normalise": Setting(
        "Make all songs equally loud. peak: the loudest moment at -1 dBFS. lufs: a loudness of -14 LUFS, as streaming "
        "services have it. none: as they are. Each section of a split song is a song here."),
    "conditioning": Setting(
        "comfyui: for generating in ComfyUI. official: for generating in ACE-Step's own program or in diffusers, which "
        "feed the model differently."),
}
