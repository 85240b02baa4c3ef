"""Plan of a training from its settings alone: nothing is loaded but headers, nothing runs.

The memory is the estimate of memory.py; the time is that of a step of the same shape on the same device, if one was
ever measured (step_times.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...adapters import registry
from ...adapters.config import AdapterConfig
from ...adapters.targets import target_modules
from ...dataset.manifest import Dataset
from ...dataset.sample_info import SampleInfo
from ...io.tensors import TensorFile
from ...model.checkpoint import Checkpoint
from ...model.decoder import DecoderGeometry
from ...model.flow_matching import FRAMES_PER_SECOND
from ...model.holding import held_bytes
from ...model.weights import Weights
from ...sentence import Sentence
from .. import batches, memory
from ..config import TrainConfig
from ..data import crop_frames
from ..heldout import material
from ..memory import USABLE, Need
from ..resolve import Resolved, resolve
from . import host_memory
from .batch_sizes import BatchSize, Drawn, batch_sizes

Verdict = Literal["fits", "tight", "too_large", "unknown"]

CROPS = (120, 60, 45, 30, 20, 10)
"""Shorter crops to propose, in seconds."""
TOKENS = 300
"""Usual length of a condition that is not encoded yet, without its text."""
CHARACTERS = 3
"""Characters of text per token of a condition."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bytes of a device's memory."""

    free: int
    """Bytes that a training can have: what is free, and what is given up for it."""
    total: int


@dataclass(frozen=True, kw_only=True)
class Fix:
    """Setting that makes a training fit, or brings it nearest."""

    setting: str
    value: str | int
    saved: int
    """Bytes."""
    fits: bool

    @property
    def sentence(self) -> Sentence:
        change = {
            "gradient_checkpointing": Sentence("recomputing layers"),
            "batch_size": Sentence("a batch size of {value}", value=self.value),
            "chunk_duration": Sentence("crops of {seconds} s", seconds=self.value),
            "rank": Sentence("rank {rank}", rank=self.value),
            "offload": Sentence("keeping layers in the computer's memory"),
            "base_precision": Sentence("the model in {precision}", precision=self.value),
        }[self.setting]
        size = round(self.saved / memory.GIB, 1)
        if self.fits:
            return Sentence("{change} would save {size} GB", change=change, size=size)
        return Sentence("{change} would save {size} GB, which is not enough alone", change=change, size=size)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Facts of a training before it begins."""

    songs: int
    """Songs that are trained on."""
    heldout: int
    minutes: float
    steps: int
    listens: float
    """Number of times that each song is trained on."""
    modules: int
    parameters: int
    need: Need
    room: Room | None
    verdict: Verdict
    fix: Fix | None
    """Cheapest change that helps where it does not fit."""
    notices: tuple[str, ...]

    @property
    def file_bytes(self) -> int:
        """Size of the adapter's file, in float32."""
        return self.parameters * 4


def plan(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig,
         room: Room | None) -> Plan:
    """Plan the training.  ConfigError or DatasetError for settings with which it would not begin.

    Samples of the dataset need not be encoded: without files, the lengths of their conditions are estimated.
    """
    settings = resolve(config, checkpoint, dataset)
    trained, _ = material.split(dataset.samples, settings.config)
    weights = checkpoint.model_weights().under("decoder.")
    geometry = DecoderGeometry.from_weights(weights)
    capacity = registry.capacity(adapter, geometry)
    job = _Job(geometry=geometry, weights=weights, dataset=dataset, settings=settings, adapter=adapter)
    need = job.need(room)
    verdict = _verdict(need, room)
    draws = settings.total_steps * settings.config.samples_per_step
    return Plan(songs=batches.count_songs(trained), heldout=settings.config.heldout_songs, minutes=dataset.seconds / 60,
                steps=settings.total_steps, listens=draws / batches.draws_per_epoch(trained),
                modules=len(capacity.parameters), parameters=capacity.total, need=need, room=room, verdict=verdict,
                fix=_fix(job, room) if verdict == "too_large" else None, notices=settings.notices)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything that the memory depends on."""

    geometry: DecoderGeometry
    weights: Weights
    dataset: Dataset
    settings: Resolved
    adapter: AdapterConfig

    def need(self, room: Room | None) -> Need:
        """Estimate the memory, with the layers that are recomputed, or in host memory, in this room."""
        config, modules = self.settings.config, target_modules(self.adapter, self.geometry.layers)
        trained, measured = material.split(self.dataset.samples, config)
        sizes = [*batch_sizes((self._drawn(sample) for sample in trained), config),
                 *(BatchSize(samples=1, frames=each.frames, tokens=each.tokens) for each in map(self._drawn, measured))]
        batch = memory.largest_batch(self.geometry, modules, sizes, number_bytes=self.settings.dtype.itemsize,
                                     dropout=self.adapter.dropout > 0, gpu=memory.is_gpu(self.settings.device))
        parameters = registry.capacity(self.adapter, self.geometry).total
        need = memory.need_of(self.geometry, held_bytes(self.weights, self.settings.holding), parameters, modules,
                              batch, config)
        if room is None:
            return need
        return memory.fit(need, _left(need, room), recompute=config.gradient_checkpointing == "auto",
                          offloadable=host_memory.offloadable(need.layers, need.layer_weights, config,
                                                              self.settings.device))

    def _drawn(self, sample: SampleInfo) -> Drawn:
        return Drawn(frames=crop_frames(sample.frames, self.settings.config), tokens=_tokens(self.dataset, sample),
                     repeats=sample.repeats)

    def changed(self, setting: str, value: str | int) -> _Job:
        """Change one setting of the training or of the adapter."""
        change: dict[str, Any] = {setting: value}
        if setting in self.adapter.to_json():
            return replace(self, adapter=replace(self.adapter, **change))
        return replace(self, settings=replace(self.settings, config=replace(self.settings.config, **change)))


def _left(need: Need, room: Room) -> int:
    """Bytes that are free once decoder and adapter are loaded; negative where they do not fit."""
    return room.free - need.resident - need.adapter


def _verdict(need: Need, room: Room | None) -> Verdict:
    if room is None:
        return "unknown"
    left = _left(need, room)
    return "fits" if need.work <= USABLE * left else "tight" if need.work <= left else "too_large"


def _fix(job: _Job, room: Room | None) -> Fix | None:
    """Choose the first change that makes it fit, in order of what it costs; else the one that saves most."""
    before = job.need(room).total
    found = []
    for setting, value in _changes(job):
        need = job.changed(setting, value).need(room)
        fits = _verdict(need, room) in ("fits", "tight")
        fix = Fix(setting=setting, value=value, saved=before - need.total, fits=fits)
        if fix.fits:
            return fix
        found.append(fix)
    helpful = [fix for fix in found if fix.saved > 0]
    return max(helpful, key=lambda fix: fix.saved) if helpful else None


def _changes(job: _Job) -> Iterator[tuple[str, str | int]]:
    """Yield the changes to try: first those that leave the result as it is."""
    config = job.settings.config
    if config.gradient_checkpointing == "off":
        yield "gradient_checkpointing", "auto"
    if config.offload == "off" and host_memory.is_apart(job.settings.device):
        yield "offload", "auto"
    if config.batch_size > 1:
        yield "batch_size", 1
    longest = max(sample.frames for sample in job.dataset.samples)
    seconds = min(config.chunk_frames or longest, longest) / FRAMES_PER_SECOND
    yield from (("chunk_duration", crop) for crop in CROPS if crop < seconds)
    values: Mapping[str, object] = job.adapter.to_json()
    rank = values.get("rank")
    while isinstance(rank, int) and rank > 8:
        rank //= 2
        yield "rank", rank
    if config.base_precision in ("as_file", "bf16"):
        yield "base_precision", "int8"


def _tokens(dataset: Dataset, sample: SampleInfo) -> int:
    """Length of a sample's longest condition: of its file's header, or estimated by its text."""
    longest = 0
    for file, prompt in zip(dataset.conditions(sample), sample.prompts(), strict=False):
        if file.is_file():
            longest = max(longest, *(tensor.shape[0] for tensor in TensorFile(file).stored.values()))
        else:
            text = len(prompt.caption) + len(prompt.lyrics)
            longest = max(longest, TOKENS + text // CHARACTERS)
    return longest
