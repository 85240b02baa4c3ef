"""Hostile files against every reader: each file is read, or refused in one sentence."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.synthetic_model import write_tiny_official
from sidestep_core.adapters import file as adapter
from sidestep_core.adapters import formats, merge
from sidestep_core.dataset import import_tensors, maintenance, tensor_file
from sidestep_core.dataset.manifest import open_dataset
from sidestep_core.errors import ConfigError, SideStepError
from sidestep_core.estimate import result
from sidestep_core.io import hashing, strict_json
from sidestep_core.io.tensors import write_tensors
from sidestep_core.model import checkpoint
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.presets import preset
from sidestep_core.songs import analyze
from sidestep_core.songs.report import Estimated, SongReport
from sidestep_core.songs.scan import find_songs
from sidestep_core.training import metrics, run_checkpoint
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import load_samples
from tests import hostile
from tests.song_folders import write
from tests.tiny import write_dataset
from tests.training import settled, trained

MODULE = "layers.0.self_attn.q_proj"
LORA = {f"base_model.model.{MODULE}.lora_A.weight": torch.ones(2, 64),
        f"base_model.model.{MODULE}.lora_B.weight": torch.ones(64, 2)}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "rank_pattern": {"k_proj": 2},
          "alpha_pattern": {"k_proj": 2}, "use_rslora": False, "init_lora_weights": True}
ENDLESS = {"r": 2, "lora_alpha": 2, "alpha_pattern": {r"(.|..|...|[a-z.]|\w)*[^\w.]": 2}}
ENTRY = {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 512]}
HEADER = {"__metadata__": {"format": "pt", adapter.METADATA_KEY: "{}"}, next(iter(LORA)): ENTRY}
ESTIMATE = {"format": 1, "score": "signal", "checkpoint": "", "dataset": "", "batches": 1, "agreement": 0.5,
            "settings": {}, "scores": [{"module": MODULE, "mean": 1.0, "error": 0.0, "bins": [1.0], "shape": [64, 64]}]}
FACTS = {"checkpoint": "x", "variant": "turbo", "trigger_word": "t", "steps": 3, "adapter": {"kind": "lora", "rank": 8},
         "train": {"epochs": 3, "optimizer": "adamw", "loss_weighting": "none"}}
SAMPLE = {"audio_path": "a.wav", "caption": "x", "bpm": 90, "lyrics": "la", "start": 0, "stop": 0, "song": "a"}


MAX_QUOTED = 1000
"""Characters of a sentence that holds the path of a temporary folder."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reader of `file`, whose valid content would be `good`."""

    file: Path
    good: Any
    read: Callable[[], object]
    wrap: Callable[[bytes], bytes] = bytes
    """Writes the text to the file."""
    bad: Sequence[Any] = hostile.BAD
    """Number of texts; lower for slow readers."""


def header(text: bytes, content: bytes = bytes(1024)) -> bytes:
    """Build a safetensors file with this header."""
    return len(text).to_bytes(8, "little") + text + content


def shorter(good: Any) -> Any:
    """Return the paths to the first entries of each object, and to the first item of each list."""
    if isinstance(good, dict):
        return {key: shorter(good[key]) for key in list(good)[:6]}
    return [shorter(item) for item in good[:1]] if isinstance(good, list) else good


@dataclass(frozen=True)
class Materials:
    """Files to read, in a folder for one test."""

    folder: Path
    checkpoint: Checkpoint

    def file(self, name: str) -> Path:
        return write(self.folder / name)

    def dataset(self) -> Reader:
        write_dataset(self.folder / "dataset", self.checkpoint, (60, 50), genre="g")

        def read() -> None:
            maintenance.usage(self.folder / "dataset")
            found = open_dataset(self.folder / "dataset")
            maintenance.verify(found)
            load_samples(found, settled(genre_ratio=0.5))

        return self.there("dataset/manifest.json", read)

    def there(self, name: str, read: Callable[[], object]) -> Reader:
        """Return a reader of an existing, valid file."""
        file = self.folder / name
        return Reader(file=file, good=shorter(json.loads(file.read_text(encoding="utf-8"))), read=read)

    def run(self, name: str) -> Reader:
        """Return a reader of a file of a run of two steps."""
        dataset = write_dataset(self.folder / "dataset", self.checkpoint, (60, 50))
        trained(self.checkpoint, dataset, self.folder, config=TrainConfig(
            max_steps=2, save_every=1, heldout_songs=0, device="cpu", gradient_accumulation=1))
        run, last = self.folder / "run", self.folder / "run" / "checkpoint-step-2"

        def read() -> None:
            if name == "run.json":
                run_checkpoint.read_identity(run)
            elif name == "finished.json":
                run_checkpoint.finished(run)
            else:
                if "state" in name:
                    hashing.write_checksums(last)
                parameter = torch.nn.Parameter(torch.ones(2))
                run_checkpoint.restore_optimizer(run_checkpoint.read(last), torch.optim.AdamW([parameter]))

        return self.there(f"run/{name}", read)

    def tensors(self, read: Callable[[Path], object]) -> Reader:
        """Return a reader of the header of a safetensors file."""
        file = self.file("x.safetensors")
        return Reader(file=file, good=HEADER, read=lambda: read(file), wrap=header)

    def metadata(self, key: str, good: Any, read: Callable[[Path], object]) -> Reader:
        """Return a reader of one text in the metadata of an adapter file."""
        file = self.file("x.safetensors")

        write_tensors(file, LORA)
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")

        def wrap(text: bytes) -> bytes:
            lines = {"__metadata__": {key: text.decode("utf-8", "replace")}, **json.loads(content[8:start])}
            return header(json.dumps(lines).encode(), content[start:])

        return Reader(file=file, good=good, read=lambda: read(file), wrap=wrap)

    def model(self, name: str) -> Reader:
        """Return a reader of a file of an official folder."""
        paths = write_tiny_official(self.folder, sharded="index" in name)
        return replace(self.there(name, lambda: checkpoint.open_checkpoint(paths.model)), bad=(None, True, "x", [], {}))

    def song(self, name: str, good: Any, wrap: Callable[[bytes], bytes] = bytes) -> Reader:
        """Return a reader of a text in a folder of two songs."""
        write(self.folder / "music" / "a.wav")
        write(self.folder / "music" / "b.wav")
        return Reader(file=self.file(f"music/{name}"), good=good, wrap=wrap,
                      read=lambda: find_songs(self.folder / "music"))

    def imported(self, name: str, good: Any) -> Reader:
        """Return a reader of a file next to the tensors of another trainer."""
        self.file("tensors/a.pt")
        return Reader(file=self.file(f"tensors/{name}"), good=good, read=lambda: import_tensors.import_tensors(
            self.folder / "tensors", self.checkpoint, self.folder / "imported"))


def apply(path: Path) -> None:
    """Run every reader of an adapter file."""
    found = formats.read(path, 1.0).matched(lambda name: (64, 64) if name.endswith("weight") else None)
    formats.host_tensors(found)
    formats.delta_fn(path)(MODULE, torch.zeros(64, 64))


def judged(path: Path) -> None:
    merge.merged_facts(path)
    checkpoint.open_checkpoint(path)


def peft_config(m: Materials) -> Reader:
    write_tensors(m.folder / "adapter_model.safetensors", LORA)
    return Reader(file=m.file("adapter_config.json"), good=CONFIG,
                  read=lambda: apply(m.folder / "adapter_model.safetensors"))


def analysis(m: Materials) -> Reader:
    file = m.file("a.json")
    report = SongReport(name="a", seconds=1.0, sample_rate=48000, channels=2, peak_db=-1.0, loudness=-14.0, clipped=0,
                        silent=0.0, mono=False, fingerprint="", bpm=Estimated(value="90", confidence=0.5))
    return Reader(file=file, good=analyze._to_json(report),
                  read=lambda: analyze._from_json(strict_json.read(file)))


def numbers(m: Materials) -> Reader:
    row = {"step": 1, "loss": 0.5, "heldout": 0.5, "measured_on": "held_out"}
    file = m.file("metrics.jsonl")
    return Reader(file=file, good=row, read=lambda: metrics.Metrics(file, after_step=1))


def estimate(path: Path) -> None:
    result.read(strict_json.read_bytes(path, max_bytes=result.MAX_CHARACTERS), path.name)


def lines(text: bytes) -> bytes:
    return json.dumps(SAMPLE).encode() + b"\n" + text + b"\n"


READERS: dict[str, Callable[[Materials], Reader]] = {
    "header, applied": lambda m: m.tensors(apply),
    "header, continued": lambda m: m.tensors(formats.as_own_state),
    "header, loaded": lambda m: m.tensors(adapter.open_adapter),
    "header, model": lambda m: m.tensors(judged),
    "header, dataset": lambda m: m.tensors(
        lambda path: (tensor_file.read(path, "latents", "a"), tensor_file.owner_of(path))),
    "header, preset": lambda m: m.tensors(preset.from_adapter),
    "metadata, adapter": lambda m: m.metadata(adapter.METADATA_KEY, FACTS, adapter.open_adapter),
    "metadata, preset": lambda m: m.metadata(adapter.METADATA_KEY, FACTS, preset.from_adapter),
    "metadata, diffusers": lambda m: m.metadata("lora_adapter_metadata", {
        f"transformer.{key}": value for key, value in CONFIG.items()}, apply),
    "metadata, LyCORIS": lambda m: m.metadata("lora_config", {"lora_alpha": 2, "rank": 2}, apply),
    "metadata, kohya": lambda m: m.metadata("ss_network_alpha", 2, apply),
    "metadata, merged": lambda m: m.metadata(merge.METADATA_KEY, [{}], judged),
    "metadata, quantised": lambda m: m.metadata("_quantization_metadata", {"layers": {"a": {"format": "x"}}}, judged),
    "adapter_config.json": peft_config,
    "config.json": lambda m: m.model("acestep-v15-turbo/config.json"),
    "index of shards": lambda m: m.model("acestep-v15-turbo/model.safetensors.index.json"),
    "manifest.json": Materials.dataset,
    "manifest.json, imported": lambda m: m.imported("manifest.json", {"samples": ["a.pt"]}),
    "preprocess_meta.json": lambda m: m.imported("preprocess_meta.json", {"model_variant": "turbo"}),
    "run.json": lambda m: m.run("run.json"),
    "finished.json": lambda m: m.run("finished.json"),
    "state.json": lambda m: m.run("checkpoint-step-2/state.json"),
    "checksums.json": lambda m: m.run("checkpoint-step-2/checksums.json"),
    "metrics.jsonl": numbers,
    "preset": lambda m: Reader(file=m.file("a.json"), good={"sidestep_preset": 1, "name": "a", **FACTS},
                               read=lambda: preset.read(m.folder / "a.json")),
    "preset, Side-Step": lambda m: Reader(file=m.file("a.json"), good={"lora_r": 8, "lora_alpha": 4, "lr": 1e-4},
                                          read=lambda: preset.read(m.folder / "a.json")),
    "estimate": lambda m: Reader(file=m.file("a.json"), good=ESTIMATE, read=lambda: estimate(m.folder / "a.json")),
    "estimate, imported": lambda m: Reader(file=m.file("a.json"), good=[{"module": MODULE, "score": 1.0}],
                                           read=lambda: estimate(m.folder / "a.json")),
    "dataset.json": lambda m: m.song("dataset.json", {"metadata": {"folder": "/x", "genre_ratio": 3, "custom_tag": "t"},
                                                      "samples": [SAMPLE]}),
    "list of another name": lambda m: m.song("my.json", {"a.wav": {"caption": "x"}}),
    "metadata.jsonl": lambda m: m.song("metadata.jsonl", SAMPLE, lines),
    "metadata.csv": lambda m: m.song("metadata.csv", SAMPLE, lambda text: b"file,caption\na.wav," + text + b"\n"),
    "song.json": lambda m: m.song("a.json", SAMPLE),
    "song.txt": lambda m: m.song("a.txt", SAMPLE),
    "analysis": analysis,
}


@pytest.mark.parametrize("name", READERS)
def test_hostile_text_is_refused_briefly(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    reader = READERS[name](Materials(tmp_path, checkpoint))
    raw = {}
    for label, text in (*hostile.TEXTS.items(), *hostile.spoiled(reader.good, reader.bad)):
        reader.file.write_bytes(reader.wrap(text))
        try:
            reader.read()
        except SideStepError as error:
            if len(str(error)) > MAX_QUOTED:
                raw[label] = str(error)[:MAX_QUOTED]
        except BaseException as error:  # noqa: BLE001 (each is a failure, and all are shown)
            raw[label] = repr(error)[:MAX_QUOTED]
    assert raw == {}


@pytest.mark.parametrize("name", [name for name in READERS if not name.startswith(("header", "metadata, ", "state"))])
def test_endless_file_is_refused(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Reading it would exhaust the memory."""
    reader = READERS[name](Materials(tmp_path, checkpoint))
    with reader.file.open("wb") as file:
        file.truncate(1 << 40)
    with contextlib.suppress(SideStepError):
        reader.read()


def test_endless_pattern_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "adapter_model.safetensors", LORA)
    (tmp_path / "adapter_config.json").write_text(json.dumps(ENDLESS), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"pattern .* cannot be used \(regex timed out\)\. Remove it"):
        formats.read(tmp_path / "adapter_model.safetensors", 1.0)
