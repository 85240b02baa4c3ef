"""A tiny official model, a folder of songs and their dataset, for commands that really run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.synthetic_model import write_tiny_official
from demo.synthetic_tensors import Geometry
from sidestep_cli.main import main
from tests.tiny import write_byte_tokenizer
from tests.tones import tone, wav

torch.set_num_threads(1)

TRAINING = "--device cpu --rank 4 --alpha 8 --lr 3e-3 --gradient-accumulation 2 --heldout-songs 1 --heldout-every 4"


@dataclass(frozen=True)
class World:
    """Folders of models, songs and encoded songs."""

    checkpoints: Path
    music: Path
    tensors: Path

    @property
    def one_song(self) -> Path:
        """Folder with a single song."""
        return self.music.parent / "one"

    def training(self, out: Path, *words: str, command: str = "fixed") -> list[str]:
        """Words of a short training."""
        return [command, "--checkpoint-dir", str(self.checkpoints), "--dataset-dir", str(self.tensors),
                "--output-dir", str(out), *TRAINING.split(), *words]


@dataclass(frozen=True)
class Ended:
    """Exit code and lines of a command."""

    code: int
    out: list[str]
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Lines of --json."""
        return [json.loads(line) for line in self.out]

    @property
    def text(self) -> str:
        return "\n".join(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    def ran(*words: object) -> Ended:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = int(str(end.code))
        shown = capsys.readouterr()
        return Ended(code, shown.out.splitlines(), shown.err)

    return ran


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Write the models and the songs, and encode these."""
    root = tmp_path_factory.mktemp("world")
    paths = write_tiny_official(root / "checkpoints", Geometry(vae_channels=128, vae_widths=(1, 1, 1, 1, 1, 1)))
    write_byte_tokenizer(paths.text_encoder)
    music = root / "music"
    music.mkdir()
    for number, pitch in enumerate((220, 330, 440)):
        wav(music / f"song{number}.wav", tone(48_000, 1.04, pitch, 2 * pitch))
        (music / f"song{number}.txt").write_text(f"caption: song {number}\nbpm: 10{number}", encoding="utf-8")
    world = World(root / "checkpoints", music, root / "tensors")
    one = root / "one"
    one.mkdir()
    wav(one / "song.wav", tone(48_000, 1.0, 220, 440))
    assert main(["preprocess", "--checkpoint-dir", str(world.checkpoints), "--audio-dir", str(music),
                 "--tensor-output", str(world.tensors), "--tag", "mystyle", "--plain"]) == 0
    return world
