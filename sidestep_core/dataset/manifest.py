"""A preprocessed dataset on disk: its folder, its files, and the manifest that lists its songs.

On disk, named by what they are made from, so that a stale file can never be taken for a right one:

    manifest.json               the songs, with their metadata
    *.latents.safetensors       latents [T, 64] of a song
    *.condition.safetensors     condition [S, D] of a prompt and a length; several per song
    *.codes.safetensors         latents [T, 64] of a song's audio codes; only if a training needed them
    silence-N.safetensors       the latent of silence

Shapes: T latent frames, S condition tokens, D width.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ..errors import DatasetError
from ..io import atomic, hashing, strict_json
from ..io.record import parse
from ..model.prompts import Prompt
from . import tensor_file
from .sample_info import SampleInfo
from .shard import Shard

MANIFEST = "manifest.json"
MAX_BYTES = 256_000_000
"""Limit of a manifest: tens of thousands of songs with their lyrics."""
_FILE = re.compile(r"[\w-][\w.-]*\.safetensors")
FORMAT = 4
READABLE = (2, 3, FORMAT)
"""Format 2 had no repeats and no foreign conditions; up to 3, the trigger word was called `tag`."""
IMPORTED = "imported"
"""Style of a dataset with conditions of another program; the other styles are in prompts.py."""
CONDITION_VERSION = 1
CODES_VERSION = 1
"""Versions in the files' names; raised if the same song or prompt would be encoded differently."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Handle of a preprocessed dataset: paths and small facts, no tensors."""

    folder: Path
    checkpoint: str
    """Fingerprint of the checkpoint whose encoders made it."""
    style: str
    trigger_word: str
    samples: tuple[SampleInfo, ...]
    genre_ratio: float = 0.0
    """Chance that a draw shows the genre in place of the caption, if a training leaves it to the dataset."""
    shard: Shard | None = None
    """Part of a dataset that this is; None for a whole one."""
    _conditions: dict[Prompt, Path] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Files of conditions: hashing thousands of prompts takes seconds."""

    @property
    def fingerprint(self) -> str:
        """Hash of audio, text, settings and checkpoint, independent of the place on the disk."""
        # Names too: the held-out songs and the order of draws depend on them.
        names = {sample: [path.name for path in self.conditions(sample)] for sample in self.samples}
        songs = sorted((sample.name, sample.latents, *names[sample], *_repeats(sample), *_own(sample))
                       for sample in self.samples)
        return hashing.fingerprint(self.checkpoint, self.style, songs)

    @property
    def seconds(self) -> float:
        return sum(sample.seconds for sample in self.samples)

    def is_whole(self) -> bool:
        """Return True if every file that preprocessing makes is there."""
        files = [self.silence]
        for sample in self.samples:
            files += [self.latents(sample), *self.conditions(sample)]
        return all(file.is_file() for file in files)

    def latents(self, sample: SampleInfo) -> Path:
        """File of a song's latents."""
        return self.folder / sample.latents

    def read_latents(self, sample: SampleInfo) -> Tensor:
        """Read a song's latents [T, 64], float32 on the CPU."""
        return tensor_file.read(self.latents(sample), "latents", sample.name)

    def condition(self, prompt: Prompt) -> Path:
        """File of a prompt's condition, with a timbre reference of the prompt's length."""
        if prompt not in self._conditions:
            styled = replace(prompt, style=self.style)
            key = hashing.fingerprint(CONDITION_VERSION, self.checkpoint, self.style, styled.caption_text,
                                      styled.lyrics_text, styled.timbre_frames)
            self._conditions[prompt] = self.folder / f"{key}.condition.safetensors"
        return self._conditions[prompt]

    def conditions(self, sample: SampleInfo) -> tuple[Path, ...]:
        """Files of a song's conditions at its whole length; one for all lengths if another program made it."""
        if sample.foreign_condition:
            return (self.folder / sample.foreign_condition,)
        return tuple(map(self.condition, sample.prompts()))

    def prompt_key(self, prompt: Prompt) -> str:
        """Key of a prompt independent of its length; stored in each condition's file as its owner."""
        return prompt_key(self.checkpoint, self.style, prompt)

    def codes(self, sample: SampleInfo) -> Path:
        """File of the latents that the checkpoint makes of a song's audio codes."""
        # The latents' name depends on the checkpoint.
        return self.folder / f"{hashing.fingerprint(CODES_VERSION, sample.latents)}.codes.safetensors"

    @property
    def silence(self) -> Path:
        """File of the silence latent, as long as the longest song and named by its length."""
        frames = max((sample.frames for sample in self.samples), default=0)
        # Another program's may be rounded.
        return self.folder / f"silence-{frames}{'-imported' if self.style == IMPORTED else ''}.safetensors"


def _repeats(sample: SampleInfo) -> tuple[str, ...]:
    """Part of the fingerprint for a song with another number of repeats than 1."""
    return (f"x{sample.repeats}",) if sample.repeats != 1 else ()


def _own(sample: SampleInfo) -> tuple[str, ...]:
    """Part of the fingerprint for a song with a trigger word of its own."""
    return (f"trigger {sample.trigger_word}",) if sample.trigger_word else ()


def prompt_key(checkpoint: str, style: str, prompt: Prompt) -> str:
    """See `Dataset.prompt_key`."""
    return hashing.fingerprint(CONDITION_VERSION, checkpoint, style, prompt.caption, prompt.lyrics, prompt.language,
                               prompt.bpm, prompt.key, prompt.signature)


def write_manifest(dataset: Dataset) -> None:
    """Write the manifest, the last step of preprocessing."""
    atomic.write_json(dataset.folder / MANIFEST, {
        "format": FORMAT, "checkpoint": dataset.checkpoint, "style": dataset.style,
        "trigger_word": dataset.trigger_word, "genre_ratio": dataset.genre_ratio,
        "samples": [asdict(sample) for sample in dataset.samples],
        **({"shard": dataset.shard.to_json()} if dataset.shard else {}),
    })


def open_dataset(folder: Path) -> Dataset:
    """Open the dataset in a folder.  DatasetError if there is none, or another version made it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(f"{folder} holds no dataset: {MANIFEST} is missing. Preprocess the songs again, or choose "
                           "another folder.")
    try:
        values = strict_json.as_object(strict_json.read(path, max_bytes=MAX_BYTES), MANIFEST)
        if values.get("format") not in READABLE:
            raise DatasetError(f"{MANIFEST} of {folder.name} has format {strict_json.shown(values.get('format'))}, "
                               f"this version reads {FORMAT}. Preprocess the songs again.")
        if values["format"] < FORMAT and "tag" in values:
            values["trigger_word"] = values.pop("tag")
        found = parse(values, _Manifest, MANIFEST)
        return Dataset(folder=folder, checkpoint=found.checkpoint, style=found.style, trigger_word=found.trigger_word,
                       samples=found.samples, genre_ratio=found.genre_ratio, shard=found.shard)
    except strict_json.BadJson as error:
        raise DatasetError(f"The dataset {folder.name} is damaged ({error}). Preprocess the songs again.") from error


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """Content of the manifest."""

    format: int
    checkpoint: str
    style: str
    trigger_word: str
    samples: tuple[SampleInfo, ...]
    genre_ratio: float = 0.0
    shard: Shard | None = None

    def __post_init__(self) -> None:
        files = Counter(sample.latents for sample in self.samples)
        names = Counter(sample.name for sample in self.samples)
        if twice := [name for name, count in names.items() if count > 1]:
            raise strict_json.BadJson(f"{MANIFEST}: samples: {strict_json.shown(twice[0])} is listed twice.")
        # A dataset that someone else has packed must not make us read other files.
        for name in (*files, *(sample.foreign_condition for sample in self.samples if sample.foreign_condition)):
            if not _FILE.fullmatch(name):
                raise strict_json.BadJson(f"{MANIFEST}: samples: {strict_json.shown(name)} is no file of a dataset.")
