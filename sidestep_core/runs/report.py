"""Report on a run to share: one HTML file without scripts that asks nothing of any server."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from . import chart
from .curve import Row
from .influence import Influence, SongInfluence
from .songs import Song
from .summary import RunSummary

MAX_PREVIEW_BYTES = 16_000_000
"""Bytes of all previews in a report; as text they take a third more."""
MAX_SONGS = 300
POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:"
"""Forbids a browser all requests and scripts."""
STATUS = {"running": "Training", "stopping": "Stopping", "paused": "Paused", "stopped": "Stopped",
          "finished": "Finished", "failed": "Failed"}
CHANGED = ' class="changed"'
KINDS = {"lora": "LoRA", "lokr": "LoKR", "loha": "LoHA"}
BY_HEART = "The adapter has learned it by heart."
MEASURED = {"held_out": "Held-out songs", "trained": "Trained songs"}
_STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Audio generated after a step (0: before the training); None if it is left out."""

    step: int
    flac: bytes | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report."""

    run: RunSummary
    rows: Sequence[Row]
    songs: Sequence[Song] = ()
    influence: Influence | None = None
    previews: Sequence[Preview] = ()
    proof: Mapping[str, Any] = field(default_factory=dict)
    """matched, total, effect and error of the published adapter; empty if it is not proven."""
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Default settings of "adapter" and "train": others are marked."""


def html(report: Report) -> str:
    """Write the report; every text in it is escaped."""
    run = report.run
    body = [_head(run), _facts(run), _curve(report), _previews(report.previews), _proof(report.proof),
            _songs(_marked(report), report.influence), _settings(report)]
    page = (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{_text(run.name)}: training report</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"{''.join(body)}</main>\n</body>\n</html>\n")
    return page.encode("utf-8", "replace").decode()


def fitting(files: Sequence[tuple[int, int]], best: int | None) -> set[int]:
    """Choose the steps of the previews that fit into a report, from (step, bytes): the first, the last, the best, then
    others evenly."""
    steps = [step for step, _ in files]
    order = [*steps[:1], *steps[-1:], *([best] if best in steps else [])]
    for stride in (len(steps) // 2 ** power for power in range(1, len(steps).bit_length() + 1)):
        order += steps[::max(1, stride)]
    sizes, chosen, left = dict(files), set[int](), MAX_PREVIEW_BYTES
    for step in order:
        if step not in chosen and sizes[step] <= left:
            chosen.add(step)
            left -= sizes[step]
    return chosen


def _head(run: RunSummary) -> str:
    about = f"{f'on {run.model}, ' if run.model else ''}{_date(run.started)}"
    texts = [f"<p class='message'>{_text(run.message)}</p>"] if run.message else []
    texts += [f"<blockquote>{_text(run.note)}</blockquote>"] if run.note else []
    return (f'<header><h1>{_text(run.name)}</h1><p><span class="status {run.status}">{STATUS[run.status]}</span> '
            f"{_text(f'Trained with Side-Step {about}')}</p>{''.join(texts)}</header>\n")


def _facts(run: RunSummary) -> str:
    facts = [("Steps", f"{run.step:,} of {run.total:,}" if run.total else f"{run.step:,}"),
             ("Songs", f"{run.songs:,}, {run.minutes:,.0f} min" if run.songs else ""),
             ("Adapter", _adapter(run)), ("Loss", _number(run.loss)),
             (MEASURED.get(run.measured_on, "Measured"), _change(run.heldout_first, run.heldout_last)),
             ("Lowest", "" if run.best is None else f"{run.best[1]:.4f} after step {run.best[0]:,}"),
             ("Files", ", ".join(run.files))]
    return f"<dl class='facts'>{''.join(_fact(*fact) for fact in facts if fact[1])}</dl>\n"


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"


def _adapter(run: RunSummary) -> str:
    rank = run.settings.get("adapter", {}).get("rank")
    return ", ".join(filter(None, [KINDS.get(run.kind, run.kind), f"rank {rank}" if isinstance(rank, int) else ""]))


def _curve(report: Report) -> str:
    measured = MEASURED.get(report.run.measured_on, "Measured")
    drawn = chart.svg(report.rows, measured=measured, best=report.run.best)
    if not drawn:
        return _section("Loss", "<p>No step was finished.</p>")
    legend = (f'<p class="legend"><span class="smoothed">Loss, smoothed</span><span class="raw">of each step</span>'
              f'<span class="heldout">{_text(measured)}</span></p>')
    return _section("Loss", drawn + legend)


def _previews(previews: Sequence[Preview]) -> str:
    if not previews:
        return ""
    players = [_player(preview.step, preview.flac) for preview in previews if preview.flac is not None]
    left_out = [preview.step for preview in previews if preview.flac is None]
    remark = f"<p>Left out to keep this file small: {_steps(left_out)}.</p>" if left_out else ""
    return _section("Previews", f"<ul class='previews'>{''.join(players)}</ul>{remark}")


def _player(step: int, flac: bytes) -> str:
    name = f"After step {step:,}" if step else "Before the training"
    audio = base64.b64encode(flac).decode()
    return (f'<li><span>{name}</span><audio controls preload="none" aria-label="{name}" '
            f'src="data:audio/flac;base64,{audio}"></audio></li>')


def _steps(steps: Sequence[int]) -> str:
    shown = ", ".join(f"{step:,}" for step in steps[:20])
    return f"step {shown}" + (f" and {len(steps) - 20} more" if len(steps) > 20 else "")


def _proof(proof: Mapping[str, Any]) -> str:
    if not proof:
        return ""
    matched, total, effect, error = (proof.get(name) for name in ("matched", "total", "effect", "error"))
    return _section("Proof", (
        "<p>The adapter's file was read back as ComfyUI reads it, and compared with what was trained. Matched: "
        f"<strong>{_number(matched)} of {_number(total)}</strong> modules. Effect at strength 1.0: "
        f"<strong>{_percent(effect)}</strong>. Largest error: <strong>{_number(error)}</strong>.</p>"))


def _marked(report: Report) -> list[Song]:
    """Songs with a sentence at those that are learned by heart."""
    return [replace(song, problems=(*song.problems, BY_HEART)) if song.name in report.run.by_heart else song
            for song in report.songs]


def _songs(songs: Sequence[Song], influence: Influence | None) -> str:
    if not songs:
        return ""
    known = {} if influence is None else {song.song: song for song in influence.songs}
    harmful = () if influence is None else influence.named("harms")
    ordered = sorted(songs, key=lambda song: (song.name not in harmful, not song.problems))
    lines = [_song(song, known) for song in ordered[:MAX_SONGS]]
    rest = f"<p>And {len(songs) - MAX_SONGS:,} more.</p>" if len(songs) > MAX_SONGS else ""
    measured = "" if influence is None else (
        f"<p>Influence on the held-out loss, measured after {influence.step:,} steps: the score of each song and its "
        "standard error.</p>")
    column = "<th>Influence</th>" if known else ""
    return _section("Songs", f"{measured}<table><thead><tr><th>Song</th><th>Length</th><th>Caption</th>{column}"
                             f"<th>Worth a look</th></tr></thead><tbody>{''.join(lines)}</tbody></table>{rest}")


def _song(song: Song, known: Mapping[str, SongInfluence]) -> str:
    mark = ' class="problem"' if song.problems else ""
    influence = known.get(song.name)
    judged = "" if influence is None else f"{influence.verdict} ({influence.score:+.2f}, error {influence.error:.2f})"
    column = f"<td>{judged}</td>" if known else ""
    return (f"<tr{mark}><td>{_text(song.name)}</td><td>{_clock(song.seconds)}</td><td>{_text(song.caption)}</td>"
            f"{column}<td>{_text(' '.join(song.problems))}</td></tr>")


def _settings(report: Report) -> str:
    parts = []
    for part, title in (("adapter", "Adapter"), ("train", "Training")):
        values, usual = report.run.settings.get(part, {}), report.defaults.get(part, {})
        lines = [f"<div{CHANGED if name in usual and usual[name] != value else ''}><dt>{_text(name)}</dt>"
                 f"<dd>{_text(_value(value))}</dd></div>" for name, value in values.items()]
        parts.append(f"<h3>{title}</h3><dl class='settings'>{''.join(lines)}</dl>" if lines else "")
    remark = "<p>Those that differ from Side-Step's defaults are marked.</p>" if report.defaults else ""
    return _section("Settings", remark + "".join(parts)) if any(parts) else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n"


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "automatic" if value is None else str(value) or "none"


def _number(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _percent(value: object) -> str:
    return f"{100 * value:,.5g} %" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _change(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return ""
    share = f" ({(last - first) / first:+.0%})" if first > 0 else ""
    return f"{first:.4f} to {last:.4f}{share}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _date(time: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%d %B %Y")
    except (OverflowError, OSError, ValueError):
        return "an unknown day"


def _text(text: object) -> str:
    """Escape a text, and keep its direction to itself."""
    escaped = escape("".join(letter for letter in str(text) if letter.isprintable() or letter in "\n\t"))
    return escaped if escaped.isascii() else f"<bdi>{escaped}</bdi>"
