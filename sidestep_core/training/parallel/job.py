"""Training that a follower takes part in, as a file that another process reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...adapters.config import AdapterConfig
from ...adapters.registry import config_from_json
from ...io import atomic, strict_json
from ...model.checkpoint import Checkpoint
from ..config import TrainConfig

MAX_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a follower has to know."""

    checkpoint: Checkpoint
    dataset: Path
    """Folder of the dataset."""
    adapter: AdapterConfig
    config: TrainConfig
    folder: Path
    """Folder of the run."""
    start_from: Path | None

    def write(self, path: Path) -> None:
        """Write the file."""
        checkpoint = {name: _plain(value) for name, value in asdict(self.checkpoint).items()}
        atomic.write_json(path, {
            "checkpoint": checkpoint, "dataset": str(self.dataset), "adapter": self.adapter.to_json(),
            "config": self.config.to_json(), "folder": str(self.folder), "start_from": _plain(self.start_from)})

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read the file."""
        values = strict_json.as_object(strict_json.read(path, max_bytes=MAX_BYTES), path.name)
        return cls(checkpoint=_checkpoint(values["checkpoint"]), dataset=Path(values["dataset"]),
                   adapter=config_from_json(values["adapter"]), config=TrainConfig.from_json(values["config"]),
                   folder=Path(values["folder"]), start_from=_path(values["start_from"]))


def _checkpoint(values: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(**{**values, "model": tuple(map(Path, values["model"])), "vae": Path(values["vae"]),
                         "text_encoder": tuple(map(Path, values["text_encoder"])),
                         "silence_latent": _path(values["silence_latent"])})


def _plain(value: Any) -> Any:
    """Paths as text."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
