"""Checkpoints that this ComfyUI cannot build are refused before anything is computed for them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from demo.synthetic_model import XL_LIKE, Geometry, write_tiny_models
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from tests.host.pack import pack_module


def tiny(folder: Path, geometry: Geometry) -> Checkpoint:
    paths = write_tiny_models(folder, geometry)
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


def test_old_host_refuses_xl(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pack_module("nodes.host.models")
    small, wide = tiny(tmp_path / "small", Geometry()), tiny(tmp_path / "wide", XL_LIKE)
    for checkpoint in (small, wide):
        models.require_buildable(checkpoint)
    monkeypatch.setattr(models, "BUILDS_XL", False)
    models.require_buildable(small)
    with pytest.raises(Exception, match=r"cannot load models of the size of .*Update ComfyUI to 0\.24\.1"):
        models.require_buildable(wide)
