from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sidestep_core.model.checkpoint import Checkpoint
from tests.tiny import TinySource, tiny_checkpoint, write_byte_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def source(tokenizer_folder: Path) -> TinySource:
    return TinySource(tokenizer_folder, [])
