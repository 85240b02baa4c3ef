"""Previews on the disk: audio, reasons of failures, and votes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep_core.io import strict_json
from sidestep_core.runs import curve, files, previews, summary
from tests.hostile import TEXTS
from tests.run_folders import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "a")
    (folder / "previews").mkdir()
    for step in (0, 20):
        (folder / "previews" / f"step-{step:06d}.flac").write_bytes(b"fLaC")
    return folder


def test_failure_is_kept_until_success(run: Path) -> None:
    previews.note_failure(run, 40, "No memory is left. \N{MULTIPLE MUSICAL NOTES} <b>")
    previews.note_failure(run, 60, "x" * 5000)
    assert [(step, reason[:9]) for step, reason in previews.failed(run)] == [(40, "No memory"), (60, "x" * 9)]
    answered = summary.answer(summary.read(run, curve.read(run / files.METRICS)))
    assert [(each["step"], bool(each["message"])) for each in answered["previews"]] == [
        (0, False), (20, False), (40, True), (60, True)]
    assert "failed_previews" not in answered
    (run / "previews" / "step-000040.flac").write_bytes(b"fLaC")
    assert [step for step, _ in previews.failed(run)] == [60]
    assert previews.made(run) == (0, 20, 40)


def test_votes_are_counted(run: Path) -> None:
    assert previews.votes(run) == {}
    for step in (20, 0, 20):
        previews.vote(run, step)
    assert previews.votes(run) == {0: 1, 20: 2}
    with pytest.raises(files.NoRun, match="This preview is gone."):
        previews.vote(run, 40)


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS.keys())
def test_hostile_files_are_read(run: Path, content: bytes) -> None:
    folder = run / "previews"
    (folder / "step-000040.failed.txt").write_bytes(content)
    (folder / files.VOTES).write_bytes(content)
    [(step, reason)] = previews.failed(run)
    assert step == 40
    assert len(reason) <= previews.MAX_REASON
    reason.encode()
    try:
        counted = previews.votes(run)
    except strict_json.BadJson:
        return
    assert all(count > 0 for count in counted.values())


def test_votes_of_odd_types_do_not_count(run: Path) -> None:
    (run / "previews" / files.VOTES).write_text('{"20": 2, "0": true, "1": -3, "2": "4", "x": 1, "3": 4.5}')
    assert previews.votes(run) == {20: 2}
