"""PreprocessAudioFolder: a folder of songs becomes what training reads, encoded once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..sidestep_core.checkpoint import Checkpoint
from ..sidestep_core.config import PreprocessConfig
from ..sidestep_core.dataset import Dataset
from ..sidestep_core.songs import Problem, find_songs
from . import folders, models
from .host import run_stage
from .sockets import CATEGORY, CheckpointSocket, DatasetSocket

if TYPE_CHECKING:
    from ..sidestep_core.preprocess import Preprocessed

log = logging.getLogger(__name__)

PROBLEMS_SHOWN = 3

_made: dict[str, Dataset] = {}
"""The dataset of each name that this process made, for noticing that something of it is gone."""


class PreprocessAudioFolder(io.ComfyNode):
    """Checkpoint, folder -> Dataset"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepPreprocessAudioFolder",
            display_name="Preprocess Audio Folder",
            category=CATEGORY,
            description="Encodes a folder of songs with their captions and lyrics. What is unchanged is never encoded "
                        "again; what cannot be used is listed with the reason.",
            search_aliases=["dataset", "audio dataset", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                CheckpointSocket.Input("checkpoint"),
                io.String.Input("folder", default="", tooltip=(
                    "Folder with songs (wav, mp3, flac, ogg, opus, m4a, ...), with its subfolders: a full path, or "
                    "the name of a folder in ComfyUI's input folder. Captions and lyrics are read from files beside "
                    "each song: song.txt, song.caption.txt, song.lyrics.txt, song.json, dataset.json.")),
                io.String.Input("dataset_name", default="my_music", tooltip=(
                    "The encoded songs are kept in output/sidestep/datasets under this name.")),
                io.String.Input("trigger_word", default=PreprocessConfig.trigger_word, tooltip=(
                    "A made-up word put into every caption. Write it into your prompt later to call the style.")),
                io.Combo.Input("trigger_position", options=["prepend", "append", "replace"],
                               default=PreprocessConfig.trigger_position, advanced=True, tooltip=(
                    "Before the caption, after it, or instead of it.")),
                io.Float.Input("max_seconds", default=PreprocessConfig.max_seconds, min=0.0, max=3600.0, step=1.0,
                               advanced=True, tooltip="Use only the first seconds of longer songs; 0: whole songs."),
                io.Float.Input("tile_seconds", default=PreprocessConfig.tile_seconds, min=1.0, max=600.0, step=1.0,
                               advanced=True, tooltip=(
                    "How much audio is encoded at once. Lower it if memory runs out; the result stays the same.")),
            ],
            outputs=[DatasetSocket.Output(display_name="dataset")],
        )

    @classmethod
    def execute(cls, checkpoint: Checkpoint, folder: str, dataset_name: str, trigger_word: str, trigger_position: str,
                max_seconds: float, tile_seconds: float) -> io.NodeOutput:
        from ..sidestep_core.preprocess import preprocess

        config = PreprocessConfig(trigger_word=trigger_word, trigger_position=trigger_position, max_seconds=max_seconds,
                                  tile_seconds=tile_seconds)
        scan = find_songs(folders.audio_folder(folder))
        for problem in scan.problems:
            log.warning("%s is left out: %s", problem.name, problem.reason)
        target = folders.dataset_folder(dataset_name)
        models.make_room()
        done = run_stage(
            cls.hidden.unique_id, target.name,
            lambda report: preprocess(models.HostModels(), checkpoint, scan.songs, target, config,
                                      device=models.device("auto"), report=report),
            summary=lambda done: _summary(done, scan.problems),
        )
        _made[dataset_name] = done.dataset
        problems = [{"name": problem.name, "reason": problem.reason} for problem in (*scan.problems, *done.problems)]
        return io.NodeOutput(done.dataset, ui={"sidestep": [{
            "songs": len(done.dataset.samples), "encoded": done.made, "minutes": round(done.dataset.seconds / 60, 1),
            "folder": str(target), "problems": problems,
        }]})

    @classmethod
    def fingerprint_inputs(cls, folder: str, dataset_name: str, **_: object) -> float | str:
        """Looks again when a song or a text file in the folder changed, or a file of the dataset is gone."""
        made = _made.get(dataset_name)
        if made is not None and not made.is_whole():
            return float("nan")
        return folders.content_stamp(folders.audio_folder(folder))


def _summary(done: Preprocessed, found: tuple[Problem, ...]) -> str:
    """How many songs are ready, and which are not and why."""
    text = f"{len(done.dataset.samples)} songs ready, {done.made} encoded now."
    problems = (*found, *done.problems)
    if not problems:
        return text
    shown = "; ".join(f"{problem.name}: {problem.reason}" for problem in problems[:PROBLEMS_SHOWN])
    rest = f"; and {len(problems) - PROBLEMS_SHOWN} more in the log" if len(problems) > PROBLEMS_SHOWN else ""
    return f"{text} Left out: {shown}{rest}."
