"""Names from a workflow stay inside their folders, and official folders load in ComfyUI."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from demo.tiny import diffusers_vae
from sidestep_core.storage import read_tensors
from tests.host.pack import pack_module


@pytest.fixture(scope="module")
def folders(comfy: ModuleType) -> Any:
    return pack_module("nodes.folders")


@pytest.mark.parametrize("name", ["", "  ", ".", "..", "../x", "a/b", "a\\b", "C:x", "nul", "COM1.txt", ".hidden",
                                  "a\nb", "x" * 81, "what?", "dot."])
def test_names_that_could_escape_or_break_are_refused(folders: Any, name: str) -> None:
    with pytest.raises(pack_module("sidestep_core.errors").ConfigError, match="name"):
        folders.safe_name(name, "adapter_name")


@pytest.mark.parametrize("name", ["my lora", "\u6625\u306e\u590c", "v1.2_final (3)", "Concert"])
def test_ordinary_names_are_kept(folders: Any, name: str) -> None:
    assert folders.safe_name(f" {name} ", "adapter_name") == name


def test_an_official_folders_vae_gets_the_hosts_names(comfy: ModuleType, demo_models: Path) -> None:
    vae_names = pack_module("nodes.vae_names")
    hosts = read_tensors(demo_models / "vae" / "ace_1.5_vae.safetensors")
    official = diffusers_vae(hosts)
    assert vae_names.is_diffusers(official)
    assert not vae_names.is_diffusers(hosts)
    renamed = vae_names.from_diffusers(official)
    assert renamed.keys() == hosts.keys()
    assert all(renamed[name].equal(hosts[name]) for name in hosts)
