"""AnalyzeSongs: tempo, key and time signature by ear, and what else of the sound a person should know."""

from __future__ import annotations

from typing import get_args, get_type_hints

from comfy_api.latest import io

from ..sidestep_core.songs.analyze import ListenConfig
from ..sidestep_core.songs.song import SongFolder
from .host import folders
from .host.worker import run_stage
from .routes import song_previews
from .sockets import CATEGORY, SongsSocket

REPORT = "report.csv"


class AnalyzeSongs(io.ComfyNode):
    """Songs -> Songs, report"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepAnalyzeSongs",
            display_name="Analyze Songs",
            category=CATEGORY,
            description="Listens to every song once: tempo, key and time signature, loudness, clipping, silence, and "
                        "songs that are there twice. Needs no network and no model.",
            search_aliases=["bpm", "key", "tempo", "loudness", "duplicates", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                SongsSocket.Input("songs"),
                io.String.Input("dataset_name", default="my_music", tooltip=(
                    "report.csv is written to output/sidestep/songs under this name.")),
                io.Combo.Input("fill", options=list(get_args(get_type_hints(ListenConfig)["fill"])),
                               default=ListenConfig.fill, tooltip=(
                    "missing: what is heard is used where the notes say nothing. all: it takes the place of what the "
                    "notes say. nothing: it is only reported.")),
                io.Float.Input("confidence", default=ListenConfig.confidence, min=0.0, max=1.0, step=0.05,
                               advanced=True, tooltip=(
                    "How sure it must be for a value to be used. 0 uses every value.")),
            ],
            outputs=[SongsSocket.Output(display_name="songs"), io.String.Output(display_name="report")],
        )

    @classmethod
    def execute(cls, songs: SongFolder, dataset_name: str, fill: str, confidence: float) -> io.NodeOutput:
        from ..sidestep_core.songs.analyze import listen
        from ..sidestep_core.songs.report_csv import write_report

        config = ListenConfig.from_json({"fill": fill, "confidence": confidence})
        target = folders.songs_folder(dataset_name) / REPORT
        heard = run_stage(
            cls.hidden.unique_id, f"listen-{dataset_name.strip()}",
            lambda report: listen(songs, config, folders.heard_folder(), report=report),
            summary=_summary,
        )
        write_report(heard, target)
        return io.NodeOutput(heard, target.read_text(encoding="utf-8-sig"), ui={"sidestep": [
            song_previews.show(heard) | {"file": str(target), "stage": "listen", "message": _summary(heard)}]})


def _summary(heard: SongFolder) -> str:
    """How many songs were heard, and how many of them a person should look at."""
    count = len(heard.reports)
    text = f"{count} song{'s' * (count != 1)} heard."
    warned = sum(bool(report.warnings) for report in heard.reports)
    if warned:
        text += f" {warned} with something to look at: see the table."
    left_out = len(heard.problems)
    return f"{text} {left_out} left out." if left_out else text
