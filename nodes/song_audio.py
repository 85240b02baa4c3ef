"""SongAudio: a clip of every song as AUDIO, for captioning nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from comfy_api.latest import io
from torch import Tensor

from ..sidestep_core.audio import container, decode
from ..sidestep_core.errors import ConfigError, DatasetError
from ..sidestep_core.progress import Progress, Report
from ..sidestep_core.songs.song import Problem, Song, SongFolder
from .host.wording import sentence
from .host.worker import run_stage
from .sockets import CATEGORY, SongsSocket

MAX_BYTES = 8 << 30
"""All clips together, as ComfyUI holds them in memory at once."""
BYTES_PER_SECOND = decode.SAMPLE_RATE * 2 * 4


class SongAudio(io.ComfyNode):
    """Songs -> list of AUDIO, list of names, Songs"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepSongAudio",
            display_name="Song Audio",
            category=CATEGORY,
            description="Takes a clip of every song, as a list of AUDIO. Connect it to any node that describes audio, "
                        "and its text to Caption Songs.",
            search_aliases=["caption", "audio list", "describe", "side-step"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                SongsSocket.Input("songs"),
                io.Float.Input("seconds", default=30.0, min=1.0, max=600.0, step=1.0, tooltip=(
                    "Length of each clip; shorter songs are used whole. Most audio models take at most 30 seconds.")),
                io.Float.Input("start", default=30.0, min=0.0, max=3600.0, step=1.0, tooltip=(
                    "Start of the clip in the song, in seconds; earlier if the song is too short.")),
            ],
            outputs=[io.Audio.Output(display_name="audio", is_output_list=True),
                     io.String.Output(display_name="names", is_output_list=True),
                     SongsSocket.Output(display_name="songs")],
        )

    @classmethod
    def execute(cls, songs: SongFolder, seconds: float, start: float) -> io.NodeOutput:
        size = len(songs.songs) * seconds * BYTES_PER_SECOND
        if size > MAX_BYTES:
            raise ConfigError(f"{len(songs.songs)} clips of {seconds:g} s would take {size / 2**30:.0f} GB of memory. "
                              "Lower seconds, or caption the songs folder by folder.")
        made = run_stage(cls.hidden.unique_id, "clips", lambda report: list(_clips(songs, seconds, start, report)),
                         summary=lambda made: f"{len(made)} clips.")
        clips = [(song, clip) for song, clip in made if isinstance(clip, Tensor)]
        problems = [Problem(name=song.name, reason=clip) for song, clip in made if isinstance(clip, str)]
        if not clips:
            raise DatasetError(f"No song can be read. {problems[0].name}: {problems[0].reason}")
        names = [song.name for song, _ in clips]
        kept = replace(songs, songs=tuple(song for song, _ in clips), problems=(*songs.problems, *problems),
                       reports=tuple(report for report in songs.reports if report.name in set(names)))
        waves = [{"waveform": clip[None], "sample_rate": decode.SAMPLE_RATE} for _, clip in clips]
        return io.NodeOutput(waves, names, kept)


def _clips(songs: SongFolder, seconds: float, start: float, report: Report) -> Iterator[tuple[Song, Tensor | str]]:
    """Yield each song with its clip [2, samples], or with the reason why there is none."""
    for number, song in enumerate(songs.songs):
        report(Progress(stage="clip", step=number, total=len(songs.songs), message=song.name))
        try:
            yield song, _clip(song, seconds, start)
        except DatasetError as error:
            yield song, sentence(error)


def _clip(song: Song, seconds: float, start: float) -> Tensor:
    """Clip [2, samples] of the song, or of its section."""
    end = song.stop or container.facts(song.path).seconds
    if not end:
        return decode.decode(song.path, max_seconds=seconds)  # the header does not say where a later clip would fit
    length = min(seconds, end - song.start)
    first = min(song.start + start, end - length)
    return decode.decode(song.path, start=max(0.0, first), max_seconds=length)
