"""SplitSongs: cut long songs into sections, each with its part of the lyrics."""

from __future__ import annotations

from typing import get_args, get_type_hints

from comfy_api.latest import io

from ..sidestep_core.songs.song import SongFolder
from ..sidestep_core.songs.split import SHORTEST, SplitConfig
from .host.worker import run_stage
from .routes import song_previews
from .sockets import CATEGORY, SongsSocket


class SplitSongs(io.ComfyNode):
    """Songs -> Songs"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepSplitSongs",
            display_name="Split Songs",
            category=CATEGORY,
            description="Cuts long songs into sections that begin on bar lines or in silence. Lyrics are divided at "
                        "markers such as [Verse]. The files stay as they are.",
            search_aliases=["sections", "slice audio", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                SongsSocket.Input("songs"),
                io.Float.Input("seconds", default=SplitConfig.seconds, min=2 * SHORTEST, max=3600.0, step=1.0, tooltip=(
                    "Longest section. Songs up to this length stay whole.")),
                io.Combo.Input("at", options=list(get_args(get_type_hints(SplitConfig)["at"])), default=SplitConfig.at,
                               tooltip=(
                    "bars: cut at the beginning of a bar, or as for silence if the song has no clear beat. silence: "
                    "cut at the quietest moments.")),
            ],
            outputs=[SongsSocket.Output(display_name="songs")],
        )

    @classmethod
    def execute(cls, songs: SongFolder, **settings: object) -> io.NodeOutput:
        from ..sidestep_core.songs.split import split

        config = SplitConfig.from_json(settings)
        parts = run_stage(cls.hidden.unique_id, "split", lambda report: split(songs, config, report=report),
                          summary=lambda parts: _summary(songs, parts))
        return io.NodeOutput(parts, ui={"sidestep": [
            song_previews.show(parts) | {"stage": "split", "message": _summary(songs, parts)}]})


def _summary(songs: SongFolder, parts: SongFolder) -> str:
    return f"{len(parts.songs)} parts of {len(songs.songs)} songs."
