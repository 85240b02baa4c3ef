"""CaptionSongs: use texts of any other node as captions."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.songs.defaults import captioned
from ..sidestep_core.songs.song import SongFolder
from .routes import song_previews
from .sockets import CATEGORY, SongsSocket


class CaptionSongs(io.ComfyNode):
    """Songs, list of STRING -> Songs"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepCaptionSongs",
            display_name="Caption Songs",
            category=CATEGORY,
            description="Takes one text for each song from any node, such as a captioning model or a list. Nothing is "
                        "written to your folder until you press the button in the table.",
            search_aliases=["auto caption", "captions", "describe", "side-step"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                SongsSocket.Input("songs"),
                io.String.Input("captions", force_input=True, tooltip=(
                    "One text for each song, in the order of the songs, such as a list made from Song Audio. A text "
                    "may have more fields, one per line: caption: ..., bpm: ..., key: ...")),
                io.Boolean.Input("replace", default=False, tooltip=(
                    "Replace existing captions. Otherwise only missing ones are filled in.")),
            ],
            outputs=[SongsSocket.Output(display_name="songs")],
        )

    @classmethod
    def execute(cls, songs: list[SongFolder], captions: list[str], replace: list[bool]) -> io.NodeOutput:
        [found], [replaces] = songs, replace
        written = captioned(found, captions, replaces)
        return io.NodeOutput(written, ui={"sidestep": [song_previews.show(written)]})
