"""Names from a workflow stay inside their folders, and official folders load in ComfyUI."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.synthetic_model import diffusers_vae, write_tiny_official
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import open_checkpoint
from tests.host.pack import pack_module


@pytest.fixture(scope="module")
def folders(comfy: ModuleType) -> Any:
    return pack_module("nodes.host.folders")


@pytest.mark.parametrize("name", ["", "  ", ".", "..", "../x", "a/b", "a\\b", "C:x", "nul", "COM1.txt", ".hidden",
                                  "a\nb", "x" * 81, "\u6625" * 67, "\ud800", "what?", "dot.", "COM\u00b9",
                                  "lpt\u00b3.x", "CON .txt", "con.", "CONIN$", "name .wav", "name..wav", "a\u202eb",
                                  "a\u2066b", "a\0b", "a\x7fb", "a\x9bb", "a\u2028b", "a\ufffdb"])
def test_unsafe_names_are_refused(folders: Any, name: str) -> None:
    with pytest.raises(pack_module("sidestep_core.errors").ConfigError, match="name"):
        folders.safe_name(name, "adapter_name")


@pytest.mark.parametrize("name", [
    "my lora", "\u6625\u306e\u590c", "v1.2_final (3)", "Concert", "COMpany", "com\u2074", "wait... what", "Mr. X",
    "\U0001f468\u200d\U0001f3a4", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0646\u0645", "\u200fabc"])
def test_ordinary_names_are_kept(folders: Any, name: str) -> None:
    assert folders.safe_name(f" {name} ", "adapter_name") == name


@given(name=st.text(st.sampled_from("con .1\u00b9\u202e\0\x85/\\:\u2028a\U0001f3b5lpt$"), min_size=1, max_size=8))
def test_names_are_safe_or_refused(folders: Any, name: str) -> None:
    try:
        safe = folders.safe_name(name, "name")
    except pack_module("sidestep_core.errors").ConfigError:
        return
    assert safe == name.strip()
    assert not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in safe)
    assert not set(safe) & set('\\/:*?"<>|\u202e')
    assert safe[0] != "." != safe[-1]
    device = safe.partition(".")[0].rstrip().lower()
    assert device not in ("con", "conin$", "conout$", "lpt1", "lpt\u00b9")


@pytest.mark.parametrize("name", ["my lora", " my lora.safetensors "])
def test_adapter_file_has_one_ending(folders: Any, name: str) -> None:
    assert folders.adapter_file(name).name == "my lora.safetensors"


def test_official_vae_gets_host_names(comfy: ModuleType, demo_models: Path) -> None:
    vae_names = pack_module("sidestep_core.model.vae_keys")
    hosts = read_tensors(demo_models / "vae" / "ace_1.5_vae.safetensors")
    official = diffusers_vae(hosts)
    assert vae_names.is_diffusers(official)
    assert not vae_names.is_diffusers(hosts)
    renamed = vae_names.from_diffusers(official)
    assert renamed.keys() == hosts.keys()
    assert all(renamed[name].equal(hosts[name]) for name in hosts)


@pytest.mark.parametrize("beside", [False, True], ids=["latent inside", "latent beside"])
def test_official_folders_are_listed(comfy: ModuleType, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     beside: bool) -> None:
    paths = write_tiny_official(tmp_path / "acestep", sharded=beside)
    if beside:
        (paths.model / "silence_latent.pt").rename(paths.model.parent / "silence_latent.pt")
    monkeypatch.setattr(folders.folder_paths, "models_dir", str(tmp_path))
    official = [choice for choice in folders.model_choices() if choice.startswith("official/")]
    assert official == ["official/acestep/acestep-v15-turbo"]
    assert folders.model_path(official[0]) == paths.model
    assert open_checkpoint(folders.model_path(official[0])).variant == "turbo"
    with pytest.raises(pack_module("sidestep_core.errors").CheckpointError, match="not in ComfyUI's model folders"):
        folders.model_path("official/../../etc")


def test_model_name_matches_comfyui(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"diffusion_models": ["ace.safetensors", "sub/ace one.safetensors"],
              "checkpoints": ["ace.safetensors", "aio ace.safetensors"]}
    for kind, names in places.items():
        for name in names:
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / name).touch()
    known = {kind: ([str(tmp_path / kind)], {".safetensors"}) for kind in places}
    monkeypatch.setattr(folders.folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folders.folder_paths, "models_dir", str(tmp_path / "none"))
    found = {choice: (folders.model_path(choice).relative_to(tmp_path).as_posix(), folders.is_split(choice))
             for choice in folders.model_choices()}
    assert found == {
        "ace.safetensors": ("diffusion_models/ace.safetensors", True),
        "sub/ace one.safetensors": ("diffusion_models/sub/ace one.safetensors", True),
        "checkpoints/ace.safetensors": ("checkpoints/ace.safetensors", False),
        "aio ace.safetensors": ("checkpoints/aio ace.safetensors", False),
    }
    # Older workflows name the kind of folder always.
    assert folders.model_path("diffusion_models/ace.safetensors") == tmp_path / "diffusion_models" / "ace.safetensors"
    assert folders.is_split("diffusion_models/ace.safetensors")
    assert not folders.is_split("checkpoints/aio ace.safetensors")


def test_folder_stamp_follows_files(folders: Any, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "inside").mkdir()
    (tmp_path / "music" / "loop").symlink_to(tmp_path / "music")
    stamps = [folders.content_stamp(tmp_path / "music")]
    for file in ("music/a.txt", "music/inside/b.txt"):
        (tmp_path / file).write_text("words", encoding="utf-8")
        stamps.append(folders.content_stamp(tmp_path / "music"))
    assert len(set(stamps)) == 3
    assert folders.content_stamp(tmp_path / "music") == stamps[-1]


def test_stopped_scan_leaves_the_stop(comfy: ModuleType, folders: Any, tmp_path: Path) -> None:
    """ComfyUI outlives an ordinary exception of a fingerprint only."""
    (tmp_path / "a.wav").touch()
    comfy.model_management.interrupt_current_processing()
    try:
        with pytest.raises(Exception, match="The scan was stopped"):
            folders.content_stamp(tmp_path)
        assert comfy.model_management.processing_interrupted()
    finally:
        comfy.model_management.interrupt_current_processing(False)
