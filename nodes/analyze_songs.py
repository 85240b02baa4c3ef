"""AnalyzeSongs: estimate tempo, key and time signature, and warn of bad sound."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.settings.songs import ANALYZE
from ..sidestep_core.songs.analyze import AnalyzeConfig
from ..sidestep_core.songs.song import SongFolder
from .host import folders
from .host.worker import run_stage
from .routes import song_previews
from .sockets import CATEGORY, SongsSocket
from .widgets.setting import setting_input

REPORT = "report.csv"


class AnalyzeSongs(io.ComfyNode):
    """Songs -> Songs, report"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepAnalyzeSongs",
            display_name="Analyze Songs",
            category=CATEGORY,
            description="Measures every song once: tempo, key and time signature, loudness, clipping, silence, and "
                        "duplicates. Needs no network and no model.",
            search_aliases=["bpm", "key", "tempo", "loudness", "duplicates", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                SongsSocket.Input("songs"),
                io.String.Input("dataset_name", default="my_music", tooltip=(
                    "report.csv is written to output/sidestep/songs under this name.")),
                setting_input(AnalyzeConfig, ANALYZE, "fill"),
                setting_input(AnalyzeConfig, ANALYZE, "confidence", advanced=True),
            ],
            outputs=[SongsSocket.Output(display_name="songs"), io.String.Output(display_name="report")],
        )

    @classmethod
    def execute(cls, songs: SongFolder, dataset_name: str, fill: str, confidence: float) -> io.NodeOutput:
        from ..sidestep_core.songs.analyze import analyze
        from ..sidestep_core.songs.report_csv import write_report

        config = AnalyzeConfig.from_json({"fill": fill, "confidence": confidence})
        target = folders.songs_folder(dataset_name) / REPORT
        analyzed = run_stage(
            cls.hidden.unique_id, f"analyze-{dataset_name.strip()}",
            lambda report: analyze(songs, config, folders.analysis_folder(), report=report),
            summary=_summary,
        )
        write_report(analyzed, target)
        return io.NodeOutput(analyzed, target.read_text(encoding="utf-8-sig"), ui={"sidestep": [
            song_previews.show(analyzed) | {"file": str(target), "stage": "analyze", "message": _summary(analyzed)}]})


def _summary(analyzed: SongFolder) -> str:
    """Numbers of songs that were analyzed, have warnings, or are left out."""
    count = len(analyzed.reports)
    text = f"{count} song{'s' * (count != 1)} analyzed."
    warned = sum(bool(report.warnings) for report in analyzed.reports)
    if warned:
        text += f" {warned} with something to look at: see the table."
    left_out = len(analyzed.problems)
    return f"{text} {left_out} left out." if left_out else text
