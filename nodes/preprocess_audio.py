"""PreprocessAudioFolder: songs become what training reads, encoded once."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..sidestep_core.dataset.config import PreprocessConfig
from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.settings.songs import PREPROCESS
from ..sidestep_core.songs.scan import find_songs
from ..sidestep_core.songs.song import Problem, SongFolder
from .host import folders, models, preflight, readable_folders
from .host.loaded_model import checkpoint_of
from .host.worker import run_stage
from .routes import song_previews
from .sockets import CATEGORY, DatasetSocket, SongsSocket, checkpoint_input
from .widgets import words
from .widgets.setting import setting_input, setting_inputs

if TYPE_CHECKING:
    from ..sidestep_core.dataset.preprocess import Preprocessed

log = logging.getLogger(__name__)

PROBLEMS_SHOWN = 3

_made: dict[str, Dataset] = {}
"""The dataset of each name that this process made, for noticing that something of it is gone."""


class PreprocessAudioFolder(io.ComfyNode):
    """Checkpoint, folder or Songs -> Dataset"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepPreprocessAudioFolder",
            display_name="Audio Folder to Dataset",
            category=CATEGORY,
            description="Encodes a folder of songs with their captions and lyrics. Unchanged songs are not encoded "
                        "again; songs that cannot be used are listed with the reason.",
            search_aliases=["preprocess", "dataset", "songs", "music folder", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                checkpoint_input(),
                io.String.Input("folder", default="", tooltip=(
                    "Folder with songs (wav, mp3, flac, ogg, opus, m4a, ...), with its subfolders: a full path, or "
                    "the name of a folder in ComfyUI's input folder. Captions and lyrics are read from files next "
                    "to each song: song.txt, song.caption.txt, song.lyrics.txt, song.json, dataset.json.")),
                io.String.Input("dataset_name", default="my_music", tooltip=(
                    "The encoded songs are kept in output/sidestep/datasets under this name.")),
                setting_input(PreprocessConfig, PREPROCESS, "trigger_word"),
                *setting_inputs(PreprocessConfig, PREPROCESS, "trigger_position", "max_seconds", "tile_seconds",
                                advanced=True),
                SongsSocket.Input("songs", optional=True, tooltip=(
                    "From Build Dataset, Analyze Songs or Caption Songs, in place of a folder.")),
                *setting_inputs(PreprocessConfig, PREPROCESS, "normalise", "conditioning", optional=True,
                                advanced=True),
            ],
            outputs=[DatasetSocket.Output(display_name="dataset")],
        )

    @classmethod
    def execute(cls, checkpoint: object, folder: str, dataset_name: str, trigger_word: str,
                songs: SongFolder | None = None, **settings: object) -> io.NodeOutput:
        from ..sidestep_core.dataset.preprocess import preprocess

        source = checkpoint_of(checkpoint)
        found = songs or _found(folders.given_folder(folder))
        config = PreprocessConfig.from_json({**words.parsed(PreprocessConfig, settings),
                                             "trigger_word": trigger_word or found.shared_trigger_word})
        for problem in found.problems:
            log.warning("%s is left out: %s", problem.name, problem.reason)
        target = folders.dataset_folder(dataset_name)
        preflight.check(cls.hidden.unique_id)
        models.make_room()
        done = run_stage(
            cls.hidden.unique_id, target.name,
            lambda report: preprocess(models.HostModels(), source, found.songs, target, config,
                                      genre_ratio=found.genre_ratio, device=models.device("auto"), report=report),
            summary=lambda done: _summary(done, found.problems),
        )
        _made[dataset_name] = done.dataset
        problems = (*found.problems, *done.problems)
        return io.NodeOutput(done.dataset, ui={"sidestep": [
            song_previews.show(replace(found, problems=problems)) | {
                "songs": len(done.dataset.samples), "encoded": done.made, "folder": str(target),
                "minutes": round(done.dataset.seconds / 60, 1), "message": _summary(done, found.problems)}]})

    @classmethod
    def fingerprint_inputs(cls, dataset_name: str, folder: str = "", **linked: object) -> float | str:
        """Looks again when a song or a text file in the folder changed, or a file of the dataset is gone."""
        made = _made.get(dataset_name)
        if made is not None and not made.is_whole():
            return float("nan")
        # Songs that are connected are watched by the node that found them.
        return "" if "songs" in linked else folders.content_stamp(folders.given_folder(folder))


def _found(folder: Path) -> SongFolder:
    found = find_songs(folder, folders.tick, readable_folders.may_read)
    song_previews.remember(found, folder)
    return found


def _summary(done: Preprocessed, found: tuple[Problem, ...]) -> str:
    """Sentence on the songs that are ready, and on those left out with the reason."""
    ready = len(done.dataset.samples)
    text = f"{ready} song{'s' * (ready != 1)} ready, {done.made} encoded now."
    problems = (*found, *done.problems)
    if not problems:
        return text
    shown = "; ".join(f"{problem.name}: {problem.reason}" for problem in problems[:PROBLEMS_SHOWN])
    rest = f"; and {len(problems) - PROBLEMS_SHOWN} more in the log" if len(problems) > PROBLEMS_SHOWN else ""
    return f"{text} Left out: {shown}{rest}."
