"""BuildDataset: find the songs of a folder with their metadata, to review and correct."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..sidestep_core.settings.songs import BUILD
from ..sidestep_core.songs.dataset_json import write_dataset_json
from ..sidestep_core.songs.defaults import BuildConfig, build
from ..sidestep_core.songs.lists import DATASET_FILE
from ..sidestep_core.songs.scan import find_songs
from .host import folders, readable_folders
from .routes import song_previews
from .sockets import CATEGORY, SongsSocket
from .widgets.setting import setting_inputs

log = logging.getLogger(__name__)

AS_WRITTEN = "as written"
"""Choice that leaves it to the metadata of each song."""


class BuildDataset(io.ComfyNode):
    """folder -> Songs"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepBuildDataset",
            display_name="Build Dataset",
            category=CATEGORY,
            description="Finds the songs of a folder with their captions, lyrics and other metadata. Listen to them "
                        "in the table and correct what is wrong.",
            search_aliases=["songs", "captions", "audio dataset", "dataset.json", "side-step"],
            is_output_node=True,
            inputs=[
                io.String.Input("folder", default="", tooltip=(
                    "Folder with songs (wav, mp3, flac, ogg, opus, m4a, ...), with its subfolders: a full path, or "
                    "the name of a folder in ComfyUI's input folder.")),
                io.String.Input("dataset_name", default="my_music", tooltip=(
                    "A dataset.json of the songs is written to output/sidestep/songs under this name. Nothing is "
                    "written into your folder.")),
                io.String.Input("trigger_word", default=BuildConfig.trigger_word, tooltip=(
                    "A made-up word put into every caption; write it into your prompt later to call the style. A song "
                    "with its own trigger word keeps it. Empty: trigger_word of Audio Folder to Dataset is used.")),
                *setting_inputs(BuildConfig, BUILD, "trigger_position", advanced=True),
                io.Float.Input("genre_ratio", default=BuildConfig.genre_ratio, min=0.0, max=1.0, step=0.05,
                               advanced=True, tooltip=BUILD["genre_ratio"].tooltip),
                io.Combo.Input("prompt_override", options=[AS_WRITTEN, "caption", "genre"], default=AS_WRITTEN,
                               advanced=True, tooltip=(
                    "caption, genre: train all songs on that, unless a song has its own setting. as written: only the "
                    "songs' own settings.")),
                *setting_inputs(BuildConfig, BUILD, "all_instrumental", "language", advanced=True),
            ],
            outputs=[SongsSocket.Output(display_name="songs")],
        )

    @classmethod
    def execute(cls, folder: str, dataset_name: str, prompt_override: str, **settings: object) -> io.NodeOutput:
        override = "" if prompt_override == AS_WRITTEN else prompt_override
        config = BuildConfig.from_json({**settings, "prompt_override": override})
        target = folders.songs_folder(dataset_name) / DATASET_FILE
        given = folders.given_folder(folder)
        read = find_songs(given, folders.tick, readable_folders.may_read)
        song_previews.remember(read, given)
        found = build(read, config)
        for problem in found.problems:
            log.warning("%s is left out: %s", problem.name, problem.reason)
        write_dataset_json(found, target, dataset_name.strip())
        return io.NodeOutput(found, ui={"sidestep": [song_previews.show(found) | {"file": str(target)}]})

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> str:
        """Run again when a song or a text file in the folder has changed."""
        return folders.content_stamp(folders.given_folder(folder))
