"""Songs that several machines encode: shares without overlap, and a merge that equals one machine's work."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.dataset.manifest import MANIFEST, Dataset, open_dataset, write_manifest
from sidestep_core.dataset.merge_shards import Merged, merge_shards
from sidestep_core.dataset.preprocess import Preprocessed, preprocess
from sidestep_core.dataset.shard import Shard
from sidestep_core.errors import DatasetError, InUse
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.estimate import estimate
from sidestep_core.io import locks
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.song import Song
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.resolve import resolve
from tests.tiny import TinySource, tiny_checkpoint
from tests.tones import tone, wav

CONFIG = PreprocessConfig(trigger_word="zxq")
SHARDS = 3


def made_songs(folder: Path) -> Path:
    """Five songs, two with the same words and length, and one that is damaged."""
    folder.mkdir()
    for number, seconds in enumerate((1.2, 1.2, 1.1, 2.0, 1.6)):
        wav(folder / f"song{number}.wav", tone(48_000, seconds, 200 + 30 * number, 700))
        text = "same" if number < 2 else f"song {number}"
        (folder / f"song{number}.txt").write_text(f"caption: {text}\ngenre: jazz", encoding="utf-8")
    (folder / "damaged.wav").write_bytes(b"no audio")
    return folder


class Machines:
    """Preprocessing of a folder, whole and in shards."""

    def __init__(self, root: Path, checkpoint: Checkpoint, tokenizer: Path) -> None:
        self.root, self.checkpoint = root, checkpoint
        self.music = made_songs(root / "music")
        self.source = TinySource(tokenizer, [])

    def songs(self) -> tuple[Song, ...]:
        return find_songs(self.music).songs

    def whole(self, name: str = "whole") -> Dataset:
        return preprocess(self.source, self.checkpoint, self.songs(), self.root / name, CONFIG, genre_ratio=0.25,
                          device="cpu").dataset

    def shard(self, number: int, of: int = SHARDS, config: PreprocessConfig = CONFIG, *, genre_ratio: float = 0.25,
              checkpoint: Checkpoint | None = None, name: str = "") -> Preprocessed:
        songs = self.songs()
        return preprocess(self.source, checkpoint or self.checkpoint, songs, self.root / (name or f"part{number}"),
                          config, genre_ratio=genre_ratio, device="cpu",
                          shard=Shard.of_list(number, of, songs, config))

    def parts(self, of: int = SHARDS) -> list[Path]:
        return [self.shard(number, of).dataset.folder for number in range(1, of + 1)]

    def merge(self, folders: list[Path], name: str = "merged") -> Merged:
        return merge_shards(folders, self.root / name)


@pytest.fixture
def machines(tmp_path: Path, checkpoint: Checkpoint, tokenizer_folder: Path) -> Machines:
    return Machines(tmp_path, checkpoint, tokenizer_folder)


def contents(folder: Path) -> dict[str, str]:
    """Every file's hash, hidden ones included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def song_list(count: int) -> list[Song]:
    return [Song(path=Path(f"/music/{number}.wav"), name=f"{number}.wav") for number in range(count)]


# Shares


@pytest.mark.parametrize(("songs", "of"), [(1, 1), (7, 7), (100, 7), (1000, 16)])
def test_shares_divide_the_list(songs: int, of: int) -> None:
    shares = [Shard.of_list(number, of, song_list(songs), CONFIG).share() for number in range(1, of + 1)]
    assert sum(map(len, shares)) == songs
    assert frozenset().union(*shares) == {song.name for song in song_list(songs)}
    assert {len(share) for share in shares} <= {songs // of, -(-songs // of)}


def test_share_depends_on_names_alone() -> None:
    songs = song_list(50)
    share = Shard.of_list(2, 4, songs, CONFIG).share()
    assert share == Shard.of_list(2, 4, songs[::-1], CONFIG).share()
    assert share == Shard.of_list(2, 4, [replace(song, caption="other", path=Path("/else")) for song in songs],
                                  CONFIG).share()
    assert share != Shard.of_list(1, 4, songs, CONFIG).share()


def test_more_shards_than_songs_are_refused() -> None:
    with pytest.raises(DatasetError, match="3 songs cannot be divided into 4 shards. Take at most 3"):
        Shard.of_list(1, 4, song_list(3), CONFIG)


def test_shard_encodes_its_share_only(machines: Machines) -> None:
    made = machines.shard(1)
    share = made.dataset.shard
    assert share is not None
    assert len(machines.source.encoded) == len(made.dataset.samples) > 0
    names = {sample.name for sample in made.dataset.samples}
    assert names | set(share.left_out) == share.share()
    assert open_dataset(made.dataset.folder) == made.dataset
    assert machines.shard(1).made == 0


def test_shard_replaces_no_other_dataset(machines: Machines) -> None:
    machines.shard(1)
    with pytest.raises(DatasetError, match="part1 holds shard 1 of 3, which shard 2 of 3 would replace"):
        machines.shard(2, name="part1")
    machines.whole()
    with pytest.raises(DatasetError, match="whole holds a whole dataset, which shard 2 of 3"):
        machines.shard(2, name="whole")


def test_whole_list_completes_a_shard(machines: Machines) -> None:
    before = {sample.name for sample in machines.shard(1).dataset.samples}
    completed = machines.whole("part1")
    assert completed.shard is None
    assert len(completed.samples) == 5
    assert len(machines.source.encoded) == 5
    assert before < {sample.name for sample in completed.samples}


def test_lone_shard_is_not_trained(machines: Machines) -> None:
    dataset = machines.shard(2).dataset
    with pytest.raises(DatasetError, match="part2 is shard 2 of 3 of a dataset and lacks the songs.*Merge the shards"):
        resolve(TrainConfig(), machines.checkpoint, dataset)
    with pytest.raises(DatasetError, match="Merge the shards"):
        estimate(machines.source, machines.checkpoint, dataset, EstimateConfig(device="cpu"), machines.root / "e")
    resolve(TrainConfig(), machines.checkpoint, replace(dataset, shard=None))


# Merging


@pytest.mark.parametrize("of", [1, 2, 3, 6])
def test_merge_equals_one_machine(machines: Machines, of: int) -> None:
    whole = machines.whole()
    parts = machines.parts(of)
    before = [contents(part) for part in parts]
    merged = machines.merge(parts[::-1])
    assert contents(machines.root / "merged") == contents(whole.folder)
    assert merged.dataset == replace(whole, folder=machines.root / "merged") == open_dataset(machines.root / "merged")
    assert merged.dataset.fingerprint == whole.fingerprint
    assert (merged.left_out, merged.rounded) == (("damaged.wav",), 0)
    assert [contents(part) for part in parts] == before


def test_shard_of_damaged_songs_is_merged(machines: Machines) -> None:
    """Each song is a shard of its own, one of which has nothing."""
    parts = machines.parts(6)
    [empty] = [part for part in map(open_dataset, parts) if not part.samples]
    assert empty.shard is not None
    assert empty.shard.left_out == ("damaged.wav",)
    assert contents(empty.folder).keys() == {MANIFEST}
    for song in machines.music.glob("song?.wav"):
        song.write_bytes(b"no audio")
    with pytest.raises(DatasetError, match="No shard could use any"):
        machines.merge([machines.shard(number, 2, name=f"silent{number}").dataset.folder for number in (1, 2)])
    with pytest.raises(DatasetError, match="No song can be used"):
        machines.whole()


def test_merge_again_changes_nothing(machines: Machines) -> None:
    parts = machines.parts()
    first = machines.merge(parts)
    stamps = {path.name: path.stat().st_mtime_ns for path in first.dataset.folder.iterdir()}
    assert machines.merge(parts).dataset == first.dataset
    assert {path.name: path.stat().st_mtime_ns for path in first.dataset.folder.iterdir()} == stamps
    first.dataset.silence.unlink()
    with pytest.raises(DatasetError, match="merged holds something else"):
        machines.merge(parts)


def test_foreign_target_is_kept(machines: Machines) -> None:
    target = machines.root / "merged"
    target.mkdir()
    (target / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DatasetError, match="merged holds something else. Give a new folder"):
        machines.merge(machines.parts())
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_stopped_merge_leaves_nothing(machines: Machines) -> None:
    parts = machines.parts()
    before = {path.name for path in machines.root.iterdir()}

    def report(progress: Progress) -> None:
        if progress.message.startswith("Copying") and progress.step == progress.total // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        merge_shards(parts, machines.root / "merged", report=report)
    assert {path.name for path in machines.root.iterdir()} == before


def test_rounding_of_shared_texts_is_told(machines: Machines) -> None:
    """Two songs with the same words, whose text is encoded by another device."""
    parts = [open_dataset(part) for part in machines.parts(6)]
    one, two = (next(part for part in parts if part.samples and part.samples[0].name == name)
                for name in ("song0.wav", "song1.wav"))
    later = max(one, two, key=lambda part: part.shard.number if part.shard else 0)
    path = later.condition(later.samples[0].prompt())
    values = read_tensors(path)["condition"].clone()
    tensor_file.write(path, "condition", torch.nextafter(values, values + 1),
                      later.prompt_key(later.samples[0].prompt()))
    assert machines.merge([part.folder for part in parts]).rounded == 1
    assert contents(machines.root / "merged") == contents(machines.whole().folder)


# What does not fit together


def test_missing_shard_is_named(machines: Machines) -> None:
    parts = machines.parts()
    with pytest.raises(DatasetError, match="Of 3 shards, 1, 3 is missing"):
        machines.merge(parts[1:2])
    with pytest.raises(DatasetError, match="folder is given twice"):
        machines.merge([*parts, parts[0]])
    shutil.copytree(parts[0], machines.root / "copy")
    with pytest.raises(DatasetError, match="are both shard 1 of 3"):
        machines.merge([*parts, machines.root / "copy"])
    assert not (machines.root / "merged").exists()


def test_whole_dataset_is_no_shard(machines: Machines) -> None:
    with pytest.raises(DatasetError, match="whole is a whole dataset, no shard"):
        machines.merge([machines.shard(1).dataset.folder, machines.whole().folder])
    with pytest.raises(DatasetError, match="holds no dataset"):
        machines.merge([machines.root / "nowhere"])
    assert not (machines.root / "nowhere").exists()


def changed_caption(machines: Machines) -> None:
    (machines.music / "song3.txt").write_text("caption: other", encoding="utf-8")


def changed_audio(machines: Machines) -> None:
    wav(machines.music / "song3.wav", tone(48_000, 2.1, 290, 700))


def added_song(machines: Machines) -> None:
    wav(machines.music / "zz.wav", tone(48_000, 1, 290, 700))


@pytest.mark.parametrize(("change", "message"), [
    (changed_caption, "'song3.wav' has another size, section, caption or other text"),
    (changed_audio, "'song3.wav' has another size"),
    (added_song, "'zz.wav' is in the song list of the other only"),
])  # fmt: skip
def test_other_songs_do_not_fit(machines: Machines, change: Callable[[Machines], None], message: str) -> None:
    first = machines.shard(1, 2).dataset.folder
    change(machines)
    with pytest.raises(DatasetError, match=f"part1 .shard 1 of 2. and .*part2 .* do not fit together: {message}"):
        machines.merge([first, machines.shard(2, 2).dataset.folder])


@pytest.mark.parametrize(("config", "genre_ratio", "message"), [
    (replace(CONFIG, trigger_word="abc"), 0.25, "trigger_word is 'zxq' in one and 'abc' in the other"),
    (replace(CONFIG, max_seconds=1.0), 0.25, "max_seconds is 0.0 in one and 1.0"),
    (replace(CONFIG, normalise="peak"), 0.25, "normalise is 'none' in one and 'peak'"),
    (replace(CONFIG, conditioning="official"), 0.25, "conditioning is 'comfyui' in one and 'official'"),
    (CONFIG, 0.5, "genre_ratio is 0.25 in one and 0.5"),
])  # fmt: skip
def test_other_settings_do_not_fit(machines: Machines, config: PreprocessConfig, genre_ratio: float,
                                   message: str) -> None:
    parts = [machines.shard(1, 2), machines.shard(2, 2, config, genre_ratio=genre_ratio)]
    with pytest.raises(DatasetError, match=message):
        machines.merge([part.dataset.folder for part in parts])


def test_tile_seconds_may_differ(machines: Machines) -> None:
    parts = [machines.shard(1, 2), machines.shard(2, 2, replace(CONFIG, tile_seconds=1.0))]
    assert len(machines.merge([part.dataset.folder for part in parts]).dataset.samples) == 5


def test_other_model_does_not_fit(machines: Machines, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    parts = [machines.shard(1, 2), machines.shard(2, 2, checkpoint=other)]
    with pytest.raises(DatasetError, match="encoded by different models"):
        machines.merge([part.dataset.folder for part in parts])


def test_other_number_does_not_fit(machines: Machines) -> None:
    parts = [machines.shard(1, 2), machines.shard(2, 3)]
    with pytest.raises(DatasetError, match="numbers of shards differ"):
        machines.merge([part.dataset.folder for part in parts])


def test_changed_manifest_is_found(machines: Machines) -> None:
    parts = machines.parts(2)
    dataset = open_dataset(parts[0])
    write_manifest(replace(dataset, samples=dataset.samples[1:]))
    with pytest.raises(DatasetError, match=f"lacks '{dataset.samples[0].name}': its {MANIFEST} was changed"):
        machines.merge(parts)
    extra = replace(open_dataset(parts[1]).samples[0])
    write_manifest(replace(dataset, samples=(*dataset.samples, extra)))
    with pytest.raises(DatasetError, match=f"should not have '{extra.name}'"):
        machines.merge(parts)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)


def not_finite(path: Path) -> None:
    [(kind, values)] = read_tensors(path).items()
    write_tensors(path, {kind: torch.full_like(values, torch.nan)}, {})


@pytest.mark.parametrize("damage", [flipped, not_finite, lambda path: os.truncate(path, 200), Path.unlink])
@pytest.mark.parametrize("kind", ["latents", "condition", "silence"])
def test_damaged_file_is_named(machines: Machines, damage: Callable[[Path], None], kind: str) -> None:
    parts = machines.parts(2)
    dataset = open_dataset(parts[1])
    path = {"latents": dataset.latents(dataset.samples[0]), "silence": dataset.silence,
            "condition": dataset.conditions(dataset.samples[0])[0]}[kind]
    damage(path)
    with pytest.raises(DatasetError, match=rf"part2 \(shard 2 of 2\) has 1 missing or damaged files.*{path.name}"):
        machines.merge(parts)
    assert not (machines.root / "merged").exists()


def test_shard_in_work_is_waited_for(machines: Machines) -> None:
    parts = machines.parts(2)
    with locks.held(parts[0], "encoded"), pytest.raises(InUse, match="part1 is being encoded"):
        machines.merge(parts)
