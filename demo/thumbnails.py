"""Thumbnails of the example workflows: deterministic drawings of each result, not measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = WIDTH, HEIGHT = 1000, 560
LARGER = 2
"""Supersampling factor, for smooth edges."""
BACK, PANEL, DIM, BRIGHT = "#16181d", "#20242c", "#8b93a3", "#f2f4f8"
VIOLET, BLUE, ORANGE, GREEN = "#a78bfa", "#4f9cf9", "#f59e0b", "#4ade80"

Pen = ImageDraw.ImageDraw
Box = tuple[float, float, float, float]
Card = Callable[[Pen], None]


def write(cards: Mapping[Path, Card]) -> None:
    """Draw each card into its JPEG."""
    for path, card in cards.items():
        image = Image.new("RGB", (WIDTH * LARGER, HEIGHT * LARGER), BACK)
        card(ImageDraw.Draw(image))
        image.resize(SIZE, Image.Resampling.LANCZOS).save(path, quality=88)


def adapter_card(pen: Pen) -> None:
    """Draw songs, a falling loss and a new song."""
    _panel(pen, (40, 40, 960, 170), "Your songs")
    _waveform(pen, (200, 60, 930, 150), VIOLET, seed=1)
    _panel(pen, (40, 190, 960, 390), "Loss")
    _loss(pen, (200, 215, 930, 365))
    _panel(pen, (40, 410, 960, 520), "New song")
    _waveform(pen, (200, 425, 930, 505), GREEN, seed=5)


def estimate_card(pen: Pen) -> None:
    """Draw a heat map with the best modules framed, then the loss."""
    _panel(pen, (40, 40, 960, 360), "What your\nmusic changes")
    random, rows, columns = np.random.default_rng(3), 8, 24
    shares = np.clip(random.beta(1.2, 3.5, (rows, columns)) + np.linspace(0.25, 0, columns), 0, 1)
    best = np.sort(shares, axis=None)[-16]
    for row, column in np.ndindex(rows, columns):
        left, top = 225 + column * 30, 65 + row * 34
        share = shares[row, column]
        colour = (int(32 + 213 * share), int(36 + 122 * share), int(60 + 20 * (1 - share)))
        _rectangle(pen, (left, top, left + 26, top + 30), colour, BRIGHT if share >= best else None)
    _panel(pen, (40, 380, 960, 520), "Only these\nare trained")
    _loss(pen, (215, 400, 930, 500))


def songs_card(pen: Pen) -> None:
    """Draw a table of songs: waveform, caption, tempo and key of each."""
    songs = (("neon drive", "driving synthwave, saw chords", "120", "A minor"),
             ("paper waltz", "playful waltz, music box", "100", "G major"),
             ("slow rain", "calm lo-fi, soft piano", "90", "C major"),
             ("late train", "dub techno, deep bass, hiss", "124", "F minor"))
    for number, (name, caption, tempo, key) in enumerate(songs):
        top = 40 + number * 123
        _panel(pen, (40, top, 960, top + 110), "")
        pen.polygon([_at(70, top + 38), _at(70, top + 72), _at(98, top + 55)], fill=VIOLET)
        _waveform(pen, (125, top + 20, 365, top + 90), VIOLET, seed=number + 1)
        _text(pen, (395, top + 34), name, 26, BRIGHT)
        _text(pen, (395, top + 74), caption, 22, DIM)
        _text(pen, (745, top + 54), f"{tempo} BPM", 22, ORANGE)
        _text(pen, (855, top + 54), key, 22, BLUE)


def lokr_card(pen: Pen) -> None:
    """Draw two small matrices that make a large one, and the loss."""
    _panel(pen, (40, 40, 960, 330), "A small file\nfor a style")
    for left, size, cells, seed in ((250, 26, 4, 1), (420, 26, 6, 2), (660, 9, 24, 3)):
        random = np.random.default_rng(seed)
        top = 185 - cells * size / 2
        for row, column in np.ndindex(cells, cells):
            share = random.beta(1.5, 2.5)
            colour = (int(40 + 127 * share), int(40 + 99 * share), int(70 + 180 * share))
            x, y = left + column * size, top + row * size
            _rectangle(pen, (x, y, x + size - 2, y + size - 2), colour)
    _text(pen, (375, 185), "x", 34, DIM)
    _text(pen, (605, 185), "=", 34, DIM)
    _panel(pen, (40, 350, 960, 520), "Loss")
    _loss(pen, (200, 370, 930, 500))


def continue_card(pen: Pen) -> None:
    """Draw a curve that stops, and goes on."""
    _panel(pen, (40, 40, 960, 520), "Loss")
    _loss(pen, (200, 90, 560, 330))
    pen.line([_at(565, 80), _at(565, 480)], fill=ORANGE, width=3 * LARGER)
    pen.polygon([_at(580, 300), _at(580, 340), _at(612, 320)], fill=ORANGE)
    _text(pen, (200, 440), "step 1,000", 26, DIM)
    _text(pen, (590, 440), "and on to 2,000", 26, BRIGHT)
    _loss(pen, (625, 310, 930, 390))


def compare_card(pen: Pen) -> None:
    """Draw takes of one song below each other, one of them chosen."""
    takes = (("1", "base", DIM), ("2", "my_lora at 0.7", GREEN), ("3", "my_lora at 1.0", VIOLET))
    for number, (key, name, colour) in enumerate(takes):
        top = 40 + number * 164
        _panel(pen, (40, top, 960, top + 150), "")
        if number == 1:
            pen.rounded_rectangle([*_at(40, top), *_at(960, top + 150)], radius=14 * LARGER, outline=GREEN,
                                  width=4 * LARGER)
        _text(pen, (70, top + 75), key, 40, BRIGHT)
        _text(pen, (120, top + 75), name, 26, BRIGHT if number == 1 else DIM)
        _waveform(pen, (350, top + 25, 930, top + 125), colour, seed=number + 4)


def quick_card(pen: Pen) -> None:
    """Draw a short curve between two songs."""
    _panel(pen, (40, 40, 480, 260), "Two songs")
    _waveform(pen, (65, 100, 455, 160), VIOLET, seed=1)
    _waveform(pen, (65, 180, 455, 240), VIOLET, seed=2)
    _panel(pen, (500, 40, 960, 260), "20 steps")
    _loss(pen, (530, 100, 930, 240))
    _panel(pen, (40, 280, 960, 520), "It works")
    _waveform(pen, (200, 310, 930, 490), GREEN, seed=5)


def _waveform(pen: Pen, box: Box, colour: str, *, seed: int) -> None:
    """Draw bars that swell with a beat."""
    left, top, right, bottom = box
    middle, count = (top + bottom) / 2, int((right - left) / 7)
    random = np.random.default_rng(seed)
    beat = 0.45 + 0.55 * np.abs(np.sin(np.arange(count) * np.pi / (5 + seed)))
    for index, height in enumerate(beat * random.uniform(0.35, 1.0, count)):
        half = max(2.0, height * (bottom - top) / 2)
        _rectangle(pen, (left + index * 7, middle - half, left + index * 7 + 4, middle + half), colour)


def _loss(pen: Pen, box: Box) -> None:
    """Draw the raw curve with its average on top."""
    left, top, right, bottom = box
    share = np.linspace(0, 1, 160)
    smooth = 0.1 + 0.85 * np.exp(-3.2 * share)
    raw = smooth + np.random.default_rng(2).normal(0, 0.06, len(share)) * (0.4 + smooth)
    for values, colour, width in ((raw, "#35507c", 2), (smooth, BLUE, 5)):
        heights = top + (1 - np.clip(values, 0, 1)) * (bottom - top)
        points = [_at(x, y) for x, y in zip(left + share * (right - left), heights, strict=True)]
        pen.line(points, fill=colour, width=width * LARGER, joint="curve")


def _panel(pen: Pen, box: Box, title: str) -> None:
    left, top, right, bottom = box
    pen.rounded_rectangle([*_at(left, top), *_at(right, bottom)], radius=14 * LARGER, fill=PANEL)
    for number, line in enumerate(title.splitlines()):
        _text(pen, (left + 20, top + 32 + 28 * number), line, 22, DIM)


def _rectangle(pen: Pen, box: Box, colour: str | tuple[int, int, int], frame: str | None = None) -> None:
    left, top, right, bottom = box
    pen.rectangle([*_at(left, top), *_at(right, bottom)], fill=colour, outline=frame, width=3 * LARGER)


def _text(pen: Pen, at: tuple[float, float], text: str, size: int, colour: str) -> None:
    pen.text(_at(*at), text, colour, ImageFont.load_default(size * LARGER), "lm")


def _at(x: float, y: float) -> tuple[float, float]:
    return x * LARGER, y * LARGER


CARDS: Mapping[str, Card] = {
    "Train, then generate": adapter_card, "Train a LoKR": lokr_card, "Build a dataset, then train": songs_card,
    "Estimate, choose, train": estimate_card, "Continue a run": continue_card, "Compare adapters": compare_card,
    "Quick test (tiny)": quick_card,
}
"""Name of a template -> its picture."""
