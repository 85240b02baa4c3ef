"""Preprocessing benchmark: overlap of decoding and encoding, time of a second run, and memory of many songs.

`overlap`: the time of the slower of decoding all songs and encoding all songs, each alone, over the time of the pass
that does both.  The songs are MP3, FLAC and Ogg files; the encoder is the tiny one of the tests, repeated so that
encoding takes twice as long as decoding.  (A real VAE on a graphics card takes several times as long, which
hides more; one song after the other would give 0.67.)  `balanced` is the same where both take equally long: there most
can be gained and least hidden.  Each is printed with the overlap of two threads that exchange nothing, the limit
set by the machine's memory and Python's lock.  torch computes on one thread in all of them, so that of two
processors one decodes and one encodes, as where a graphics card encodes.  They are measured in turn, and the best time
of each counts: whatever else the machine does only ever adds.  Two processors have to be free for that long.
`second_run_seconds`: scanning and preprocessing an unchanged folder of 200 songs, the slowest of a few times.
`texts`: time of encoding the captions and genres of songs that share their lyrics, at four lengths, with each shared
part encoded once, over encoding it for every prompt.  `tiles`: the same of a song's tiles eight at once, as a card
with the memory does, over one by one; on a processor, which gains little by it.  Both are processor time, with the
tiny encoders of the tests.
`memory_growth_mb`: how much more memory a process has had at its peak that preprocesses 200 songs than one that
preprocesses 10 of the same length; after the audio or at the end, whichever is more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from torch import Tensor

import run
from benchmarks.step import Work, seconds
from sidestep_core.audio import decode
from sidestep_core.dataset import conditions, tensor_file
from sidestep_core.dataset.conditions import encode_conditions
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.dataset.latents import MOST_TILES, Recording, Stamp, Tiles, encode_recordings, encode_tiled
from sidestep_core.dataset.preprocess import preprocess
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.prompts import COMFYUI, Prompt
from sidestep_core.progress import Progress, Report, ignore
from sidestep_core.songs.scan import find_songs
from tests.tiny import TinySource, tiny_checkpoint, write_byte_tokenizer
from tests.tones import encode, tone

FORMATS = (("mp3", "libmp3lame", "fltp"), ("flac", "flac", "s16"), ("ogg", "vorbis", "fltp"))
RATE = 44_100
SONGS, LENGTH = 30, 20.0
"""Songs of the overlap benchmark, and their seconds."""
FEW, MANY, SHORT = 10, 200, 10.0
"""Numbers of songs in the other two benchmarks, and their seconds."""
TEXTS, LENGTHS = 4, (30.0, 60.0, 120.0, 240.0)
"""Songs whose prompts are encoded, and the lengths of their crops."""
TILED = 240
"""Seconds of audio that are encoded in tiles."""
ROUNDS, TIMES, FEW_TIMES = 6, 5, 2
CONFIG = PreprocessConfig()
CPU = torch.device("cpu")
TARGETS = {"overlap": (">=", 0.9), "second_run_seconds": ("<=", 2.0), "memory_growth_mb": ("<", 50.0)}


def write_songs(folder: Path, count: int, length: float) -> None:
    """Write `count` different songs, in the formats in turn, with captions and lyrics."""
    folder.mkdir(parents=True)
    for number in range(count):
        ending, codec, sample_format = FORMATS[number % len(FORMATS)]
        sound = tone(RATE, length, 200.0 + number, 300.0 + number)
        encode(folder / f"{number:03}.{ending}", sound, RATE, codec, sample_format)
        (folder / f"{number:03}.txt").write_text(f"caption: song {number}\nbpm: 90\nlyrics:\nla la\n", encoding="utf-8")


@dataclass(frozen=True)
class RepeatedSource(TinySource):
    """The tiny encoder, so many times over each piece."""

    times: int = 1

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        encode = super().audio_encoder(checkpoint, device)

        def repeatedly(waveform: Tensor) -> Tensor:
            for _ in range(self.times - 1):
                encode(waveform)
            return encode(waveform)

        return repeatedly


def computed_seconds(work: Work) -> float:
    """Processor time of the work, in seconds."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure_overlap(folder: Path, checkpoint: Checkpoint, slower: float) -> float:
    """Share of decoding hidden behind encoding, which takes `slower` times as long; 1 is all of it."""
    write_songs(folder / "songs", SONGS, LENGTH)
    recordings = [Recording(name=path.name, path=path, stamp=Stamp.of(path), audio=path.name, start=0.0, seconds=0.0,
                            normalise="none") for path in sorted((folder / "songs").glob("*.[mfo]*"))]
    waveforms = [decode.decode(recording.path) for recording in recordings]

    def decode_all() -> None:
        for recording in recordings:
            assert decode.problem(decode.decode(recording.path)) is None

    def encode_all(source: TinySource) -> None:
        encode = source.audio_encoder(checkpoint, CPU)
        for recording, waveform in zip(recordings, waveforms, strict=True):
            latents_TC = encode_tiled(encode, waveform, CONFIG.tile_seconds)
            assert torch.isfinite(latents_TC).all()
            tensor_file.write(folder / "alone" / recording.latents(checkpoint), "latents", latents_TC)

    def both(source: TinySource) -> None:
        assert not encode_recordings(source, checkpoint, recordings, folder / "both", CONFIG.tile_seconds, CPU, ignore)

    def apart(source: TinySource) -> None:
        decoder = threading.Thread(target=decode_all)
        decoder.start()
        encode_all(source)
        decoder.join()

    source = RepeatedSource(Path(), [])
    encode_all(source)
    times = max(1, round(slower * computed_seconds(decode_all) / computed_seconds(lambda: encode_all(source))))
    source = replace(source, times=times)
    works = (decode_all, lambda: encode_all(source), lambda: both(source), lambda: apart(source))
    rows = [[seconds(work) for work in works] for _ in range(ROUNDS)]
    decoding, encoding, together, parted = (min(column) for column in zip(*rows, strict=True))
    longer = max(decoding, encoding)
    print(f"decoding {decoding:.2f} s, encoding ({times} times) {encoding:.2f} s, both {together:.2f} s, one after the "
          f"other {decoding + encoding:.2f} s; two threads with no hand-over {parted:.2f} s, which is "
          f"{longer / parted:.3f}", flush=True)
    return round(longer / together, 3)


def measure_texts(root: Path, checkpoint: Checkpoint) -> float:
    """Time of conditions that share parts, over their time without sharing."""
    prompts = {f"{song}-{genre}-{length}": Prompt(caption=f"{genre} {song} " * 20, lyrics="la la la\n" * 50,
                                                  language="en", bpm=90, key="", signature="4/4", seconds=length)
               for song in range(TEXTS) for genre in ("caption", "genre") for length in LENGTHS}

    def encode_all() -> None:
        with TemporaryDirectory(dir=root) as folder:
            named = {Path(folder) / name: (name, prompt) for name, prompt in prompts.items()}
            encode_conditions(TinySource(root / "tokenizer", []), checkpoint, named, COMFYUI, CPU, lambda *_: None)

    def every_part() -> None:
        with (mock.patch.object(conditions, "REMEMBERED", 0), mock.patch.object(conditions, "CAPTIONS_REMEMBERED", 0)):
            encode_all()

    encode_all()
    return better_ratio(encode_all, every_part)


def measure_tiles(checkpoint: Checkpoint) -> float:
    """Time of tiles encoded at once, over one by one."""
    encode = TinySource(Path(), []).audio_encoder(checkpoint, CPU)
    waveform = torch.randn(2, decode.SAMPLE_RATE * TILED)
    many = Tiles(CPU)
    many.count = MOST_TILES
    return better_ratio(lambda: encode_tiled(encode, waveform, CONFIG.tile_seconds, tiles=many),
                        lambda: encode_tiled(encode, waveform, CONFIG.tile_seconds))


def better_ratio(one: Work, other: Work) -> float:
    """Processor time of one work over that of another, of each the best of a few times."""
    times = [(computed_seconds(one), computed_seconds(other)) for _ in range(FEW_TIMES)]
    return round(min(first for first, _ in times) / min(second for _, second in times), 3)


def preprocess_folder(folder: Path, report: Report = ignore) -> None:
    """Scan and preprocess, as a node does."""
    root = folder.parent
    checkpoint = open_checkpoint(root / "acestep_v1.5_tiny_turbo.safetensors",
                                 text_encoder=root / "qwen_tiny_ace15.safetensors",
                                 vae=root / "ace_1.5_tiny_vae.safetensors")
    preprocess(TinySource(root / "tokenizer", []), checkpoint, find_songs(folder / "songs").songs, folder / "dataset",
               CONFIG, device="cpu", report=report)


def peak_memory() -> float:
    """The most that this process has had, in MB.

    Linux counts in ru_maxrss what the parent had when it started this process; its VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1000
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1000)


def print_memory(folder: Path) -> None:
    """Preprocess, and print the peak of memory after the audio and at the end: the work of each process."""
    torch.set_num_threads(1)
    peaks: list[float] = []

    def report(progress: Progress) -> None:
        if progress.message.startswith("Reading the text") and not peaks:
            peaks.append(peak_memory())

    preprocess_folder(folder, report)
    print(json.dumps([*peaks, peak_memory()]))


def measure_memory(root: Path) -> float:
    """Growth of the peak in MB from few songs to many."""
    peaks = []
    for count in (FEW, MANY):
        write_songs(root / f"{count}" / "songs", count, SHORT)
        command = [*run.launch(Path(sys.executable), "benchmarks.preprocess"), root / f"{count}"]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=run.bootstrap.ROOT)
        peaks.append(json.loads(output.stdout))
        print(f"{count} songs: at most {peaks[-1][0]:.0f} MB for the audio, {peaks[-1][1]:.0f} MB in all", flush=True)
    return round(max(many - few for few, many in zip(*peaks, strict=True)), 1)


def measure() -> dict[str, float]:
    """The figures, by name."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        checkpoint = tiny_checkpoint(root)
        write_byte_tokenizer(root / "tokenizer")
        growth = measure_memory(root)
        second = max(seconds(lambda: preprocess_folder(root / f"{MANY}")) for _ in range(TIMES))
        overlap, balanced = (measure_overlap(root / f"overlap-{slower}", checkpoint, slower) for slower in (2, 1))
        texts, tiles = measure_texts(root, checkpoint), measure_tiles(checkpoint)
    return {"overlap": overlap, "balanced": balanced, "texts": texts, "tiles": tiles,
            "second_run_seconds": round(second, 3), "memory_growth_mb": growth}


def main() -> int:
    if len(sys.argv) > 1:
        print_memory(Path(sys.argv[1]))
        return 0
    found = measure()
    for name, (sign, target) in TARGETS.items():
        print(f"{name:<18} {found[name]:8.3f}  (target {sign} {target:g})")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
