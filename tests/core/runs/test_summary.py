"""Summaries: whole runs, and folders in which anything is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep_core.io import locks
from sidestep_core.progress import Progress
from sidestep_core.runs import curve, files, previews, record, songs, summary
from sidestep_core.runs.record import Origin, RunRecord
from sidestep_core.runs.songs import Song
from sidestep_core.runs.summary import RunSummary, UnderWay
from tests.hostile import BAD, TEXTS, spoiled
from tests.run_folders import IDENTITY, write_run


def read(folder: Path, under_way: UnderWay | None = None) -> RunSummary:
    found = summary.read(folder, curve.read(folder / files.METRICS), under_way)
    json.dumps(summary.answer(found), allow_nan=False).encode()
    return found


def test_stopped_run_is_summarised(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "song-0123456789abcdef", ended="stopped", message="Stopped after step 60 of 100.",
                       files=["song-step-60.safetensors"], checkpoints=(50, 60))
    (folder / "previews").mkdir()
    (folder / "previews" / "step-000050.flac").touch()
    (folder / "note.txt").write_text("drums are \N{DRUM WITH DRUMSTICKS} <b>", encoding="utf-8")
    found = read(folder)
    assert (found.id, found.name, found.status, found.step, found.total) == (folder.name, "song", "stopped", 60, 100)
    assert (found.kind, found.songs, found.minutes, found.model) == ("lora", 3, 9.5, "turbo")
    assert (found.loss, found.best, found.measured_on) == (1 / 60, (50, 0.04), "held_out")
    assert (found.heldout_first, found.heldout_last) == (3.0, 0.04)
    assert found.message == "Stopped after step 60 of 100."
    assert (found.previews, found.note) == ((50,), "drums are \N{DRUM WITH DRUMSTICKS} <b>")
    assert found.files == ("song-step-60.safetensors",)


def test_finished_run_without_record(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "my-song-0123456789abcdef-2", steps=100, finished=True)
    (folder / "summary.json").unlink()
    found = read(folder)
    assert (found.name, found.status, found.step, found.total) == ("my-song", "finished", 100, 100)
    assert found.files == ("my-song-0123456789abcdef-2.safetensors",)
    assert found.message == "All 100 steps are made."
    assert found.started == pytest.approx((folder / "run.json").stat().st_mtime)


def test_killed_run_is_stopped(tmp_path: Path) -> None:
    found = read(write_run(tmp_path / "a", steps=77))
    assert (found.status, found.step) == ("stopped", 50)
    assert found.message == "It ended after step 77; step 50 is kept. Run again to continue from there."
    found = read(write_run(tmp_path / "b", steps=7, checkpoints=()))
    assert (found.status, found.step) == ("stopped", 7)
    assert found.message == "It ended before anything was saved. Run again to start over."


@pytest.mark.parametrize("state", ["running", "stopping", "paused"])
def test_run_under_way_has_its_state(tmp_path: Path, state: UnderWay) -> None:
    found = read(write_run(tmp_path / "a", steps=77), state)
    assert (found.status, found.step, found.ended, found.message) == (state, 77, None, "")


@pytest.mark.parametrize("name", ["run.json", "summary.json", "finished.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS.keys())
def test_damaged_file_breaks_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_run(tmp_path / "a", steps=100, finished=True)
    (folder / name).write_bytes(content)
    found = read(folder)
    assert found.status in ("finished", "stopped", "failed")
    assert found.status != "failed" or f"{name} is damaged: " in found.message


def test_damaged_identity_is_failed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "run.json").write_bytes(b"{")
    assert read(folder).status == "failed"
    assert read(folder).message.startswith("run.json is damaged: run.json line 1 is not valid JSON")
    (folder / "run.json").unlink()
    assert read(folder).message.startswith("run.json is missing. It cannot be continued")


def test_spoiled_fields_break_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", finished=True)
    known = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    finished = json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    for name, good in (("run.json", IDENTITY), ("summary.json", known), ("finished.json", finished)):
        for _, content in spoiled(good, BAD):
            (folder / name).write_bytes(content)
            read(folder)
        (folder / name).write_text(json.dumps(good), encoding="utf-8")


@given(name=st.text(max_size=40), note=st.text(max_size=40), message=st.text(max_size=40))
def test_any_text_is_kept(tmp_path_factory: pytest.TempPathFactory, name: str, note: str, message: str) -> None:
    folder = write_run(tmp_path_factory.mktemp("texts") / "a", ended="failed", name=name, message=message)
    (folder / "note.txt").write_bytes(note.encode("utf-8", "surrogatepass"))
    found = read(folder)
    assert (found.name, found.message) == (name, message.strip())
    assert found.note == note.replace("\r", "\r")


def test_signature_follows_every_change(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    seen = {summary.signature(folder)}
    for name in ("note.txt", "metrics.jsonl", "summary.json", "run.json", "finished.json", "previews/step-1.flac",
                 "checkpoint-step-60/state.json", "workflow.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * (len(seen) + 1))
        assert summary.signature(folder) not in seen, name
        seen.add(summary.signature(folder))


def test_only_runs_are_found(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "file").touch()
    write_run(tmp_path / "runs" / ".hidden")
    write_run(tmp_path / "elsewhere")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert files.run_folders(tmp_path / "runs") == {"a": tmp_path / "runs" / "a"}
    assert files.run_folders(tmp_path / "missing") == {}


def test_folder_of_runs_may_be_link(tmp_path: Path) -> None:
    write_run(tmp_path / "disk" / "a")
    (tmp_path / "runs").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert list(files.run_folders(tmp_path / "runs")) == ["a"]


@pytest.mark.parametrize("run", ["", ".", "..", "../a", "a/", "a/.", "./a", "a\0", "A", "a ", "/", "link", "\ud800"])
def test_other_ids_find_nothing(tmp_path: Path, run: str) -> None:
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "a")
    with pytest.raises(files.NoRun):
        files.run_folder(tmp_path / "runs", run)


def test_deleted_run_is_gone(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b")
    adapter = tmp_path / "loras" / "a.safetensors"
    adapter.parent.mkdir()
    adapter.touch()
    files.delete(tmp_path / "runs", "a")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["b"]
    assert adapter.is_file()
    with pytest.raises(files.NoRun):
        files.delete(tmp_path / "runs", "a")


def test_run_in_use_is_not_deleted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a")
    with locks.held(folder, "trained"), pytest.raises(locks.InUse):
        files.delete(tmp_path / "runs", "a")
    assert read(folder).id == "a"


def test_link_inside_run_leads_nowhere(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    secret = tmp_path / "secret.flac"
    secret.write_bytes(b"x")
    (folder / "previews").mkdir()
    (folder / "previews" / "step-000003.flac").symlink_to(secret)
    assert previews.file(folder, 3) is None
    files.delete(tmp_path, "a")
    assert secret.is_file()


def test_record_tells_course(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    begun = RunRecord(name="song", started=5.0)
    origin = Origin(node_id="5", workflow_id="w", workflow='{"id": "w"}')
    with record.kept(folder, begun, [Song(name="a.wav", seconds=2.0)], origin):
        assert record.read(folder) == RunRecord(name="song", started=5.0, first_started=5.0, node_id="5",
                                                workflow_id="w")
        record.add_file(folder, "song.safetensors")
    found = record.read(folder)
    assert found is not None
    assert (found.end, found.files) == ("finished", ("song.safetensors",))
    assert (folder / "workflow.json").read_text(encoding="utf-8") == '{"id": "w"}'
    assert songs.read(folder) == (Song(name="a.wav", seconds=2.0),)


@pytest.mark.parametrize(("error", "end"), [(ValueError("No."), "failed"), (KeyboardInterrupt("No."), "stopped")])
def test_record_tells_reason(tmp_path: Path, error: BaseException, end: str) -> None:
    with pytest.raises(type(error)), record.kept(tmp_path, RunRecord(name="song", started=5.0)):
        raise error
    found = record.read(tmp_path)
    assert found is not None
    assert (found.end, found.message, found.ended is not None) == (end, "No.", True)


def test_second_start_keeps_files(tmp_path: Path) -> None:
    for started in (5.0, 9.0):
        with record.kept(tmp_path, RunRecord(name="song", started=started)):
            record.add_file(tmp_path, f"song-{started:g}.safetensors")
    found = record.read(tmp_path)
    assert found is not None
    assert (found.started, found.first_started) == (9.0, 5.0)
    assert found.files == ("song-5.safetensors", "song-9.safetensors")


def test_unwritable_record_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").write_text("a file where the folder should be", encoding="utf-8")
    with record.kept(tmp_path / "a", RunRecord(name="song", started=5.0)):
        pass
    assert "The record of a could not be written" in caplog.text


def test_notices_are_kept_once(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with record.kept(tmp_path, RunRecord(name="song", started=1000.0)):
        report = record.noting(tmp_path, seen.append)
        for notice in ("", "Warm-up is short.", "Warm-up is short.", "x" * 5000):
            report(Progress(stage="train", step=1, total=2, notice=notice))
    known = record.read(tmp_path)
    assert known is not None
    assert known.notices == ("Warm-up is short.", "x" * record.MAX_MESSAGE)
    assert len(seen) == 4
