"""Folders of .pt tensors become datasets that train, and what is wrong with a file is said of that file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core.adapters.formats import read
from sidestep_core.dataset import maintenance
from sidestep_core.dataset.import_tensors import import_tensors
from sidestep_core.dataset.manifest import Dataset, open_dataset
from sidestep_core.dataset.preprocess import Preprocessed
from sidestep_core.errors import DatasetError
from sidestep_core.io import atomic, hashing, walk
from sidestep_core.io.tensors import read_metadata
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import ensure_conditions, load_samples
from tests.core.io.test_torch_pickle import Hostile
from tests.tiny import TinySource
from tests.training import settled, trained

CPU = torch.device("cpu")
WIDTH = 64
TOKENS = 769
"""Length to which those trainers pad every condition."""
SILENCE = torch.randn(200, 64, generator=torch.Generator().manual_seed(1))


def song(frames: int, seed: int = 0, *, real: int = 40, dtype: torch.dtype = torch.bfloat16,
         **metadata: Any) -> dict[str, Any]:
    """The dictionary that Side-Step saves of a song."""
    random = torch.Generator().manual_seed(1000 + seed)
    facts = {"audio_path": f"/music/{seed}.wav", "filename": f"{seed}.wav", "caption": f"song {seed}",
             "lyrics": "[Instrumental]", "duration": frames // 25, "bpm": 120, "keyscale": "C major",
             "timesignature": "4/4", "genre": "", "is_instrumental": True, "custom_tag": "mystyle",
             "prompt_override": None, "repeat": 1}
    return {
        "target_latents": torch.randn(frames, 64, generator=random).to(dtype),
        "attention_mask": torch.ones(frames, dtype=dtype),
        "encoder_hidden_states": torch.randn(TOKENS, WIDTH, generator=random).to(dtype),
        "encoder_attention_mask": torch.arange(TOKENS) < real,
        "context_latents": torch.cat((SILENCE[:frames], torch.ones(frames, 64)), dim=1).to(dtype),
        "metadata": facts | metadata,
    }


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    """A folder of three songs, as Side-Step leaves it: without a manifest."""
    folder = tmp_path / "tensors"
    folder.mkdir()
    for seed, frames in enumerate((60, 103, 80)):
        torch.save(song(frames, seed), folder / f"album__{seed}.pt")
    return folder


@pytest.fixture
def take(checkpoint: Checkpoint, tensors: Path, tmp_path: Path) -> Callable[[], Preprocessed]:
    return lambda: import_tensors(tensors, checkpoint, tmp_path / "dataset")


Take = Callable[[], Preprocessed]


def names(found: Preprocessed) -> list[str]:
    return [sample.name for sample in found.dataset.samples]


def problem(found: Preprocessed) -> str:
    assert len(found.problems) == 1
    return f"{found.problems[0].name}: {found.problems[0].reason}"


def test_import_strips_padding(take: Take, tensors: Path, checkpoint: Checkpoint) -> None:
    found = take()
    dataset = found.dataset
    assert (names(found), found.problems, found.made) == ([f"album__{n}.pt" for n in range(3)], (), 3)
    assert open_dataset(dataset.folder) == dataset
    assert (dataset.style, dataset.checkpoint, dataset.trigger_word) == ("imported", checkpoint.fingerprint, "mystyle")
    assert dataset.is_whole()
    samples, silence_TC = load_samples(dataset, settled())
    for number, sample in enumerate(samples):
        stored = torch.load(tensors / f"album__{number}.pt", weights_only=True)
        assert torch.equal(sample.latents_TC[:], stored["target_latents"].float())
        assert torch.equal(sample.condition_SD[:], stored["encoder_hidden_states"][:40].float())
        assert sample.latents_TC[:].dtype == sample.condition_SD[:].dtype == torch.float32
    assert torch.equal(silence_TC, SILENCE[:103].bfloat16().float())
    info = dataset.samples[1]
    assert (info.caption, info.lyrics, info.bpm, info.key, info.signature, info.frames, info.repeats) == (
        "song 1", "[Instrumental]", 120, "C major", "4/4", 103, 1)


def test_second_import_changes_nothing(take: Take) -> None:
    def contents() -> dict[str, str]:
        return {path.name: hashing.hash_file(path) for path in first.dataset.folder.iterdir()}

    first = take()
    before = contents()
    again = take()
    assert (again.made, again.dataset) == (0, first.dataset)
    assert contents() == before


def test_repeats_and_genres_come_over(take: Take, tensors: Path) -> None:
    content = song(50, 3, repeat=4, genre="jazz")
    content["encoder_hidden_states_genre"] = content["encoder_hidden_states"] + 1
    content["encoder_attention_mask_genre"] = torch.arange(TOKENS) < 35
    torch.save(content, tensors / "album__3.pt")
    dataset = take().dataset
    assert [sample.repeats for sample in dataset.samples] == [1, 1, 1, 4]
    assert [sample.genre for sample in dataset.samples] == ["", "", "", "jazz"]
    genre_SD = load_samples(dataset, settled(genre_ratio=0.5))[0][3].genre_SD
    assert genre_SD is not None
    assert torch.equal(genre_SD[:], content["encoder_hidden_states_genre"][:35].float())


@pytest.mark.parametrize("config", [
    TrainConfig(max_steps=3, chunk_duration=1.5, device="cpu", heldout_songs=1, heldout_every=2),
    TrainConfig(max_steps=2, context_mode="codes", device="cpu"),
    TrainConfig(max_steps=2, chunk_duration=1.5, context_mode="mixed", batch_size=2, device="cpu"),
], ids=["windows", "codes", "mixed windows"])
def test_imported_dataset_trains(take: Take, checkpoint: Checkpoint, tmp_path: Path, config: TrainConfig) -> None:
    reports: list[Progress] = []
    adapter = trained(checkpoint, take().dataset, tmp_path, config=config, report=reports.append)
    assert adapter.steps == config.max_steps
    assert read(adapter.path).total > 0
    facts = json.loads(read_metadata(adapter.path)["sidestep"])
    assert facts["style"] == "imported"
    notices = [report.notice for report in reports if report.notice]
    assert notices[0].startswith("This dataset's conditions were made by another program")
    assert "preprocess the songs themselves" in notices[0]
    assert ("with the condition of the whole song" in notices[0]) == bool(config.chunk_duration)


def test_crops_use_the_song_condition(take: Take, checkpoint: Checkpoint, tokenizer_folder: Path) -> None:
    dataset, config = take().dataset, settled(chunk_duration=1.5)
    before = set(dataset.folder.iterdir())
    ensure_conditions(TinySource(tokenizer_folder, []), checkpoint, dataset, config, CPU)
    assert set(dataset.folder.iterdir()) == before
    whole, cropped = load_samples(dataset, settled())[0], load_samples(dataset, config)[0]
    assert all(torch.equal(one.condition_SD[:], other.condition_SD[:])
               for one, other in zip(whole, cropped, strict=True))


def test_import_reports_foreign_conditions(checkpoint: Checkpoint, tensors: Path, tmp_path: Path) -> None:
    (tensors / "preprocess_meta.json").write_text('{"model_variant": "base"}', encoding="utf-8")
    reports: list[Progress] = []
    import_tensors(tensors, checkpoint, tmp_path / "dataset", report=reports.append)
    assert [report.message for report in reports[:3]] == [f"Importing album__{n}.pt" for n in range(3)]
    notice = reports[-1].notice
    assert "made by another program" in notice
    assert "made with base, but" in notice
    assert notice.endswith("is turbo.")


def test_stopped_and_continued_equals_undisturbed(take: Take, checkpoint: Checkpoint, tensors: Path,
                                                  tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        import_tensors(tensors, checkpoint, tmp_path / "stopped", report=stop)
    again = import_tensors(tensors, checkpoint, tmp_path / "stopped")
    assert again.made == 1
    undisturbed = {path.name: path.read_bytes() for path in take().dataset.folder.iterdir()}
    assert {path.name: path.read_bytes() for path in again.dataset.folder.iterdir()} == undisturbed


LEFT_OUT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "other width": (lambda s: s | {"encoder_hidden_states": torch.zeros(TOKENS, 2048)},
                    r"encoder_hidden_states has shape \[769, 2048\], not \[any, 64\]; it was made for another model"),
    "65 channels": (lambda s: s | {"context_latents": torch.zeros(60, 65)}, r"context_latents has shape \[60, 65\]"),
    "whole numbers": (lambda s: s | {"target_latents": torch.zeros(60, 64, dtype=torch.int8)}, r"is of torch\.int8"),
    "not finite": (lambda s: s | {"target_latents": s["target_latents"].log()}, "target_latents has .* not finite"),
    "beyond float32": (lambda s: s | {"target_latents": s["target_latents"].double() * 1e300}, "not finite in float32"),
    "endless repeats": (lambda s: s | {"metadata": {"repeat": 10**9}}, "metadata: repeat must be a whole number"),
    "no latents": (lambda s: {key: s[key] for key in s if key != "target_latents"}, "has no target_latents"),
    "text for a tensor": (lambda s: s | {"target_latents": "x"}, "target_latents is no plain tensor"),
    "sparse": (lambda s: s | {"target_latents": s["target_latents"].float().to_sparse()}, "is no plain tensor"),
    "endless": (lambda s: s | {"target_latents": torch.zeros(1, 64).expand(10**9, 64)}, "more than the file holds"),
    "other length": (lambda s: s | {"target_latents": s["target_latents"][:50]},
                     "target_latents has 50 frames, context_latents 60"),
    "no tokens": (lambda s: s | {"encoder_attention_mask": torch.zeros(TOKENS)}, r"no mask .* 0 real"),
    "gaps": (lambda s: s | {"encoder_attention_mask": torch.arange(TOKENS) % 2}, "no mask of real tokens followed by"),
    "long mask": (lambda s: s | {"encoder_attention_mask": torch.ones(800)}, "has 769 tokens, but its mask says 800"),
    "flat mask": (lambda s: s | {"encoder_attention_mask": torch.ones(1, TOKENS)}, r"no mask .*\[1, 769\]"),
    "repaint": (lambda s: s | {"context_latents": s["context_latents"] * 0}, "not all ones"),
    "leak": (lambda s: s | {"context_latents": torch.cat((s["target_latents"], torch.ones(60, 64)), 1)},
             "is the song itself instead of silence"),
    "codes": (lambda s: s | {"context_latents": torch.cat((torch.zeros(60, 64), torch.ones(60, 64)), 1)},
              r"is another than that of album__\d\.pt, so one of them is not silence"),
    "metadata": (lambda s: s | {"metadata": [1]}, "metadata is list"),
    "tempo": (lambda s: s | {"metadata": {"bpm": "fast"}}, "metadata: bpm"),
    "a tensor": (lambda s: s["target_latents"], "holds Tensor, not the dictionary of a song"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_bad_files_are_left_out(take: Take, tensors: Path, kind: str) -> None:
    change, reason = LEFT_OUT[kind]
    torch.save(change(song(60, 9)), tensors / "bad.pt")
    found = take()
    assert len(found.dataset.samples) == 3
    assert found.problems[0].name == "bad.pt"
    assert re.search(reason, problem(found))


def test_oversized_files_are_not_opened(take: Take, tensors: Path) -> None:
    with (tensors / "huge.pt").open("wb") as file:
        file.truncate(1 << 40)
    assert problem(take()) == "huge.pt: is larger than 1024 MB, which no song is"


def test_outside_links_are_left_out(take: Take, tensors: Path, tmp_path: Path) -> None:
    torch.save(song(60, 9), tmp_path / "secret.pt")
    (tensors / "link.pt").symlink_to(tmp_path / "secret.pt")
    found = take()
    assert names(found) == ["album__0.pt", "album__1.pt", "album__2.pt"]
    assert problem(found).startswith("link.pt: It is a link that leads out of the folder")


def test_endless_folder_is_rejected(take: Take, tensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_ENTRIES", 2)
    with pytest.raises(DatasetError, match="holds more than 2 files"):
        take()
    monkeypatch.setattr(walk, "MAX_ENTRIES", 4)
    (tensors / "manifest.json").write_text(json.dumps([f"{number}.pt" for number in range(9)]), encoding="utf-8")
    assert "lists 9 samples, more than 4; every .pt file is taken instead" in problem(take())


def test_hostile_files_run_nothing(take: Take, tensors: Path, tmp_path: Path) -> None:
    torch.save(song(60, 9) | {"metadata": {"caption": Hostile(tmp_path / "target")}}, tensors / "bad.pt")
    (tensors / "cut.pt").write_bytes((tensors / "album__0.pt").read_bytes()[:5000])
    (tensors / "empty.pt").touch()
    found = take()
    assert not (tmp_path / "target").exists()
    assert [entry.name for entry in found.problems] == ["bad.pt", "cut.pt", "empty.pt"]
    assert "would run code when opened" in found.problems[0].reason
    assert all("was cut off" in entry.reason for entry in found.problems[1:])


def test_full_disk_is_reported(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    take()
    manifest = take().dataset.folder / "manifest.json"
    before = manifest.read_bytes()
    for path in manifest.parent.glob("*.latents.safetensors"):
        path.unlink()

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_flush_to_disk", full)
    with pytest.raises(DatasetError, match="could not be written .*No space left"):
        take()
    assert manifest.read_bytes() == before


def test_invalid_names_are_reported(take: Take, tensors: Path) -> None:
    (tensors / "manifest.json").write_text(json.dumps({"samples": ["album__0.pt", "\udcff.pt"]}), encoding="utf-8")
    found = take()
    assert names(found) == ["album__0.pt"]
    assert "not valid Unicode" in problem(found)


def test_imports_keep_their_own_silence(take: Take) -> None:
    dataset = take().dataset
    assert replace(dataset, style="comfyui").silence != dataset.silence
    assert maintenance.usage(dataset.folder).orphans == 0


def test_half_songs_are_left_out(take: Take, tensors: Path) -> None:
    (tensors / "album__0.pt").rename(tensors / "album__0.tmp.pt")
    (tensors / "album__5.pt.__writing__").touch()
    assert "its preprocessing was interrupted" in problem(take())


@pytest.mark.parametrize("form", ["paths", "upstream", "estylon", "bare", "windows", "moved"])
def test_manifest_chooses_and_orders_files(take: Take, tensors: Path, form: str) -> None:
    files = ["album__2.pt", "album__0.pt"]
    forms: dict[str, Any] = {
        "paths": {"samples": files},
        "upstream": {"metadata": {}, "samples": [str(tensors / file) for file in files], "num_samples": 2},
        "estylon": {"version": 2, "samples": files, "sample_details": [{"path": file} for file in files]},
        "bare": files,
        "windows": {"samples": [f".\\{file}" for file in files]},
        "moved": {"samples": ["C:\\old place\\tensors\\album__2.pt", "/home/else/tensors/album__0.pt"]},
    }
    (tensors / "manifest.json").write_text(json.dumps(forms[form]), encoding="utf-8")
    assert names(take()) == files


@pytest.mark.parametrize("entry", ["../secret.pt", "..\\secret.pt", "sub/../../secret.pt", "link.pt", "a\0b.pt", "",
                                   "gone.pt"])
def test_manifest_stays_inside_folder(take: Take, tensors: Path, tmp_path: Path, entry: str) -> None:
    torch.save(song(60, 9), tmp_path / "secret.pt")
    (tensors / "link.pt").symlink_to(tmp_path / "secret.pt")
    (tensors / "manifest.json").write_text(json.dumps({"samples": [entry, "album__0.pt"]}), encoding="utf-8")
    found = take()
    assert names(found) == ["album__0.pt"]
    assert problem(found) == f"{entry}: is listed in manifest.json but is not in the folder"


@pytest.mark.parametrize("content", ["{", "3", '{"samples": []}', '{"samples": [1]}', '{"samples": {}}', "[" * 100000])
def test_unusable_manifest_takes_every_file(take: Take, tensors: Path, content: str) -> None:
    (tensors / "manifest.json").write_text(content, encoding="utf-8")
    found = take()
    assert len(found.dataset.samples) == 3
    assert "every .pt file is taken instead" in problem(found)


def test_unusable_folders_are_rejected(checkpoint: Checkpoint, tensors: Path, tmp_path: Path, take: Take) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"holds no \.pt files"):
        import_tensors(tmp_path / "empty", checkpoint, tmp_path / "dataset")
    with pytest.raises(DatasetError, match="There is no folder"):
        import_tensors(tmp_path / "nowhere", checkpoint, tmp_path / "dataset")
    with pytest.raises(DatasetError, match="Choose another name"):
        import_tensors(tensors, checkpoint, tensors)
    ours = take().dataset.folder
    with pytest.raises(DatasetError, match="is a preprocessed dataset already"):
        import_tensors(ours, checkpoint, tmp_path / "other")
    for file in tensors.glob("*.pt"):
        file.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"No file of .* can be imported\. album__0\.pt: "):
        take()


def test_codes_depend_on_the_checkpoint(checkpoint: Checkpoint, tensors: Path, tmp_path: Path) -> None:
    one = import_tensors(tensors, checkpoint, tmp_path / "dataset").dataset
    other = import_tensors(tensors, replace(checkpoint, fingerprint="another"), tmp_path / "dataset").dataset
    assert codes(one).isdisjoint(codes(other))


def codes(dataset: Dataset) -> set[Path]:
    return {dataset.codes(sample) for sample in dataset.samples}


def test_padding_would_change_training(take: Take, tensors: Path) -> None:
    """The twin: the padding that is cut off is not nothing."""
    stored: Tensor = torch.load(tensors / "album__0.pt", weights_only=True)["encoder_hidden_states"]
    condition_SD = load_samples(take().dataset, settled())[0][0].condition_SD
    assert condition_SD.shape[0] == 40 < stored.shape[0]
    assert stored[40:].abs().max() > 0
