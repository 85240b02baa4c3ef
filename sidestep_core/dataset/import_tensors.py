"""Import of .pt tensors that Side-Step or ACE-Step's own trainer encoded, as a dataset.

Each file is a dictionary of one song (T latent frames, L condition tokens, D width):

    target_latents [T, 64], attention_mask [T], encoder_hidden_states [L, D], encoder_attention_mask [L],
    context_latents [T, 128], metadata; and of some trainers encoder_hidden_states_genre, encoder_attention_mask_genre

The condition is padded there to 769 tokens, and those trainers' decoder attended to the padding too: the model uses no
mask.  It is cut off here, as no generation has it.  What is left is what the real tokens are by themselves, because the
encoders that made them did use the masks.  It still is foreign: another template of the caption, lyrics without their
heading, a timbre reference of zeros.  Sources: Side-Step's data/preprocess.py and data_module.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DatasetError
from ..io import atomic, hashing, locks, strict_json, torch_pickle
from ..io.tensors import write_tensors
from ..model.checkpoint import Checkpoint, variants_in
from ..progress import Progress, Report, ignore
from ..songs.metadata import SongMetadata, json_entries, parse_entries
from ..songs.song import Problem, none_left
from . import foreign_files, tensor_file
from .captions import INSTRUMENTAL
from .conditions import STYLE_NOTICES
from .manifest import IMPORTED, Dataset, write_manifest
from .preprocess import Preprocessed, explain_interruption
from .sample_info import SampleInfo

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the files' names; raised when the same file would be imported differently."""
CHANNELS = 64
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SAME_SILENCE = 1e-2
"""Tolerance between the silences of two songs, as one may have been stored in bfloat16."""
SETTINGS = "preprocess_meta.json"
MAX_BYTES = 1 << 30
"""Limit of one file; ten minutes take 20 MB."""


@dataclass(frozen=True, kw_only=True)
class _Song:
    """Content of a file: float32 tensors without padding, and metadata."""

    latents_TC: Tensor
    condition_SD: Tensor
    genre_SD: Tensor | None
    silence_TC: Tensor
    metadata: SongMetadata


def import_tensors(source_folder: Path, checkpoint: Checkpoint, folder: Path, *,
                   report: Report = ignore) -> Preprocessed:
    """Import the .pt files of `source_folder`, which stays as it is, into a dataset in `folder`.

    A file that cannot be used is reported and left out; DatasetError if none is left.  The checkpoint must be the one
    that made the files: only the widths can be checked.  No code of the files is run.
    """
    if folder.resolve() == source_folder.resolve():
        raise DatasetError(f"The dataset cannot be made in {folder}, which holds the files. Choose another name.")
    files, problems = foreign_files.listed(source_folder)
    with locks.held(folder, "imported"), explain_interruption(folder):
        dataset, made = _imported(files, problems, source_folder, checkpoint, folder, report)
    for problem in problems:
        log.warning("%s is left out: %s", problem.name, problem.reason)
    notice = STYLE_NOTICES[IMPORTED] + _other_variant(source_folder, checkpoint)
    report(Progress(stage="preprocess", step=len(files), total=len(files), message=notice, notice=notice))
    return Preprocessed(dataset=dataset, problems=tuple(problems), made=made)


def _imported(files: Sequence[Path], problems: list[Problem], source_folder: Path, checkpoint: Checkpoint,
              folder: Path, report: Report) -> tuple[Dataset, int]:
    """Import the files; return the dataset, and the number of songs with newly written files."""
    width = checkpoint.model_weights().shape("encoder.text_projector.weight")[0]
    samples: list[SampleInfo] = []
    trigger_words: set[str] = set()
    made = 0
    silence_TC, silence_of = torch.empty(0, CHANNELS), ""
    for number, path in enumerate(files):
        name = path.relative_to(source_folder).as_posix()
        report(Progress(stage="preprocess", step=number, total=len(files), message=f"Importing {name}"))
        try:
            song = _read(path, width)
            _check_silence(song, silence_TC, silence_of)
            sample, new = _write(song, name, path, checkpoint, folder)
        except atomic.CannotWrite:
            raise
        except (DatasetError, torch_pickle.BadTorchFile) as error:
            problems.append(Problem(name=name, reason=str(error)))
        except OSError as error:
            problems.append(Problem(name=name, reason=f"cannot be read ({error.strerror or error})"))
        else:
            samples.append(sample)
            trigger_words.add(song.metadata.get("trigger_word", ""))
            made += new
            if len(song.silence_TC) > len(silence_TC):
                silence_TC, silence_of = song.silence_TC, name
    if not samples:
        raise none_left(f"No file of {source_folder} can be imported", problems)
    dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style=IMPORTED,
                      trigger_word=trigger_words.pop() if len(trigger_words) == 1 else "",
                      samples=tuple(samples))
    tensor_file.write(dataset.silence, "silence", silence_TC)
    write_manifest(dataset)
    return dataset, made


def _read(path: Path, width: int) -> _Song:
    """Read a song.  DatasetError or BadTorchFile, with the reason as text, if it is none for this checkpoint."""
    if path.stat().st_size > MAX_BYTES:
        raise DatasetError(f"is larger than {MAX_BYTES >> 20} MB, which no song is")
    content = torch_pickle.read(path)
    if not isinstance(content, dict):
        raise DatasetError(f"holds {type(content).__name__}, not the dictionary of a song")
    limit = path.stat().st_size
    frames = _real(content, "attention_mask", limit)
    latents_TC = _tensor(content, "target_latents", CHANNELS, limit)[:frames]
    context_TC = _tensor(content, "context_latents", 2 * CHANNELS, limit)[:frames]
    if not len(latents_TC) == len(context_TC) == frames:
        raise DatasetError(f"target_latents has {len(latents_TC)} frames, context_latents {len(context_TC)}, and "
                           f"attention_mask {frames}")
    if (context_TC[:, CHANNELS:] != 1).any():
        raise DatasetError("the mask in context_latents is not all ones: it was made for another task than generating "
                           "from text")
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        raise DatasetError(f"metadata is {type(metadata).__name__}, not a dictionary")
    return _Song(
        latents_TC=latents_TC,
        condition_SD=_condition(content, "", width, limit),
        genre_SD=_condition(content, "_genre", width, limit) if "encoder_hidden_states_genre" in content else None,
        silence_TC=context_TC[:, :CHANNELS],
        metadata=parse_entries(json_entries(_texts(metadata), "metadata")),
    )


def _texts(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain values by name, without the prompt override, which is part of the condition already."""
    return {key: value for key, value in metadata.items()
            if isinstance(key, str) and key != "prompt_override" and isinstance(value, (str, int, float))}


def _condition(content: Mapping[Any, Any], suffix: str, width: int, limit: int) -> Tensor:
    """Condition [S, D] without its padding."""
    name = f"encoder_hidden_states{suffix}"
    condition_LD = _tensor(content, name, width, limit)
    tokens = _real(content, f"encoder_attention_mask{suffix}", limit)
    if tokens > len(condition_LD):
        raise DatasetError(f"{name} has {len(condition_LD)} tokens, but its mask says {tokens}")
    return condition_LD[:tokens]


def _tensor(content: Mapping[Any, Any], name: str, width: int, limit: int) -> Tensor:
    """Tensor [any, width] of finite numbers, in float32."""
    value = _stored(content, name, limit)
    if value.dim() != 2 or value.shape[1] != width:
        raise DatasetError(f"{name} has shape {list(value.shape)}, not [any, {width}]; it was made for another model, "
                           "or is no song")
    if value.dtype not in FLOATS:
        raise DatasetError(f"{name} is of {value.dtype}, not of floating-point numbers")
    value = value.float()
    if not torch.isfinite(value).all():
        raise DatasetError(f"{name} has values that are not finite in float32")
    return value


def _real(content: Mapping[Any, Any], name: str, limit: int) -> int:
    """Number of real tokens in a mask; they must come first."""
    mask = _stored(content, name, limit) != 0
    count = int(mask.sum())
    if mask.dim() != 1 or count == 0 or not mask[:count].all():
        raise DatasetError(f"{name} is no mask of real tokens followed by padding (shape {list(mask.shape)}, "
                           f"{count} real)")
    return count


def _stored(content: Mapping[Any, Any], name: str, limit: int) -> Tensor:
    value = content.get(name)
    if value is None:
        raise DatasetError(f"has no {name}; it is no song of a preprocessed dataset")
    if not torch_pickle.is_plain(value, limit):
        raise DatasetError(f"{name} is no plain tensor, or claims to be more than the file holds")
    tensor: Tensor = value.detach()
    return tensor


def _check_silence(song: _Song, silence_TC: Tensor, other: str) -> None:
    """Raise DatasetError unless the source latents are silence, which is the same in every song."""
    if torch.allclose(song.silence_TC, song.latents_TC, rtol=SAME_SILENCE, atol=SAME_SILENCE):
        raise DatasetError("its context is the song itself instead of silence; an adapter would only learn to copy it")
    shared = min(len(song.silence_TC), len(silence_TC))
    if not torch.allclose(song.silence_TC[:shared], silence_TC[:shared], rtol=SAME_SILENCE, atol=SAME_SILENCE):
        raise DatasetError(f"its context is another than that of {other}, so one of them is not silence. Import those "
                           "with codes or covers as context in a folder without the others, or leave them out")


def _write(song: _Song, name: str, path: Path, checkpoint: Checkpoint, folder: Path) -> tuple[SampleInfo, bool]:
    """Write the missing files of a song; return its sample, and True if any was written."""
    digest, facts = hashing.hash_file(path), path.stat()
    key = hashing.fingerprint("imported", VERSION, digest, checkpoint.fingerprint)
    genre = {} if song.genre_SD is None else {"genre": song.genre_SD}
    files = {f"{key}.latents.safetensors": {"latents": song.latents_TC},
             f"{key}.condition.safetensors": {"condition": song.condition_SD} | genre}
    missing = [file for file in files if not (folder / file).is_file()]
    for file in missing:
        write_tensors(folder / file, files[file])
    notes = song.metadata
    lyrics = "" if notes.get("instrumental") else notes.get("lyrics", "")
    latents, condition = files
    return SampleInfo(
        name=name, latents=latents, frames=len(song.latents_TC), caption=notes.get("caption", ""),
        genre=(notes.get("genre") or "genre") if genre else "", lyrics=lyrics or INSTRUMENTAL,
        language=notes.get("language", "unknown"), bpm=notes.get("bpm"), key=notes.get("key", ""),
        signature=notes.get("signature", ""), audio=digest, size=facts.st_size, modified=facts.st_mtime_ns,
        repeats=notes.get("repeats", 1), foreign_condition=condition,
    ), bool(missing)


def _other_variant(folder: Path, checkpoint: Checkpoint) -> str:
    """Sentence if the settings in the folder name another variant than the checkpoint's; else empty."""
    try:
        settings = strict_json.read(folder / SETTINGS)
    except strict_json.BadJson:
        return ""
    variants = variants_in(str(settings.get("model_variant", ""))) if isinstance(settings, dict) else set()
    if variants and checkpoint.variant not in variants:
        return (f" {SETTINGS} says that they were made with {' or '.join(sorted(variants))}, but {checkpoint.name} is "
                f"{checkpoint.variant}.")
    return ""
