"""Runs, asked as the page asks: lists, curves, previews, workflows; what can be changed, and what not."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI
from sidestep_core.io import locks
from sidestep_core.runs import files, influence
from sidestep_core.runs.influence import Influence, SongInfluence
from sidestep_core.runs.report import POLICY
from tests.run_folders import write_metrics, write_run

JSON = {"Content-Type": "application/json"}


def ask(server: ComfyUI, path: str, body: object = None, headers: Mapping[str, str] = JSON,
        of: str = "runs") -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and content."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.address}/sidestep/{of}{path}", data, dict(headers))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def told(server: ComfyUI, path: str) -> Any:
    status, _, content = ask(server, path)
    assert status == 200, content
    return json.loads(content)


@pytest.fixture
def runs(server: ComfyUI) -> Iterator[Path]:
    """The server's folder of runs, empty."""
    folder = server.base / "output" / "sidestep" / "runs"
    aside = folder.with_name("aside")
    if folder.exists():
        folder.rename(aside)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)
    if aside.exists():
        aside.rename(folder)


def test_runs_are_listed_newest_first(server: ComfyUI, runs: Path) -> None:
    for number, name in enumerate("cab"):
        write_run(runs / name, started=1000.0 + number, ended="stopped")
    (runs / "a" / "run.json").write_bytes(b"\x00")
    (runs / "foreign").mkdir()
    found = told(server, "")["runs"]
    assert [run["id"] for run in found] == ["b", "a", "c"]
    assert [run["status"] for run in found] == ["stopped", "failed", "stopped"]
    assert found[0]["best"] == {"step": 50, "loss": 0.04}
    assert told(server, "/b") == found[0]


def test_run_has_all_fields(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a", ended="stopped", files=["gone.safetensors", "kept.safetensors"],
                       message=f"Nothing could be written into {runs}.")
    (folder / "workflow.json").write_text('{"nodes": []}', encoding="utf-8")
    adapter = server.base / "models" / "loras" / "kept.safetensors"
    adapter.parent.mkdir(parents=True, exist_ok=True)
    adapter.touch()
    status, _, content = ask(server, "/a")
    assert status == 200
    assert str(server.base) not in content.decode()
    assert sorted(json.loads(content)) == sorted([
        "id", "name", "status", "step", "total", "started", "ended", "kind", "songs", "minutes", "model", "settings",
        "loss", "best", "heldout_first", "heldout_last", "measured_on", "sparkline", "previews", "files", "message",
        "note", "by_heart", "node_id", "workflow_id", "has_workflow"])
    assert json.loads(content)["files"] == ["kept.safetensors"]
    adapter.unlink()


def test_adapters_are_sent_by_name(server: ComfyUI, runs: Path) -> None:
    loras = server.base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    write_run(runs / "a", ended="stopped", files=["gone.safetensors", "first.safetensors", "last.safetensors"])
    contents = {"first.safetensors": b"abc" * 1000, "last.safetensors": b"", "foreign.safetensors": b"secret"}
    for name, content in contents.items():
        (loras / name).write_bytes(content)
    try:
        assert told(server, "/a/adapters") == {"adapters": [
            {"name": name, "size": len(contents[name]), "sha256": hashlib.sha256(contents[name]).hexdigest()}
            for name in ("first.safetensors", "last.safetensors")]}
        assert ask(server, "/a/adapters/first.safetensors")[::2] == (200, b"abc" * 1000)
        status, _, rest = ask(server, "/a/adapters/first.safetensors", headers={"Range": "bytes=2990-"})
        assert (status, rest) == (206, b"cabcabcabc")
        for path in ("/a/adapters/foreign.safetensors", "/a/adapters/gone.safetensors", "/b/adapters",
                     "/a/adapters/..%2Ffirst.safetensors", "/b/adapters/first.safetensors"):
            status, _, content = ask(server, path)
            assert status == 404, path
            assert b"secret" not in content
    finally:
        for name in contents:
            (loras / name).unlink()


def test_unchanged_answer_sends_nothing(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a")
    for path in ("", "/a", "/a/metrics"):
        _, headers, _ = ask(server, path)
        again = {"If-None-Match": headers["ETag"]}
        assert ask(server, path, headers=again)[0] == 304
        write_metrics(folder / "metrics.jsonl", 80)
        assert ask(server, path, headers=again)[0] == 200
        write_metrics(folder / "metrics.jsonl", 60)


def test_curve_is_thinned_and_continued(server: ComfyUI, runs: Path) -> None:
    write_metrics(write_run(runs / "a") / "metrics.jsonl", 5000)
    whole = told(server, "/a/metrics?points=100")
    assert (whole["id"], whole["last_step"], whole["stride"]) == ("a", 5000, 64)
    assert 100 <= len(whole["rows"]) < 400
    assert [row["step"] for row in told(server, "/a/metrics?after=4998")["rows"]] == [4999, 5000]
    part = told(server, "/a/metrics?after=1999&until=2064&points=100")
    assert (part["stride"], [row["step"] for row in part["rows"]]) == (1, list(range(2000, 2065)))
    for odd in ("points=0", "points=-1", "points=x", "after=-5", "after=%00", "until=x", "until=-1",
                "points=99999999999999999999"):
        assert told(server, f"/a/metrics?{odd}")["last_step"] == 5000


def test_preview_is_sent_in_ranges(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a") / "previews"
    folder.mkdir()
    (folder / "step-000050.flac").write_bytes(b"fLaC" + b"x" * 96)
    assert told(server, "/a")["previews"] == [{"step": 50, "message": ""}]
    status, headers, content = ask(server, "/a/previews/50", headers={"Range": "bytes=0-3"})
    assert (status, headers["Content-Type"], content) == (206, "audio/flac", b"fLaC")
    assert ask(server, "/a/previews/51")[0] == 404
    (folder / "step-000051.flac").symlink_to(server.base / "input")
    assert ask(server, "/a/previews/51")[0] == 404


def test_workflow_is_returned_unchanged(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a")
    assert ask(server, "/a/workflow")[0] == 404
    text = json.dumps({"id": "w", "nodes": [{"widgets_values": [str(server.base), "\N{PARTY POPPER}"]}]})
    (folder / "workflow.json").write_text(text, encoding="utf-8")
    assert (told(server, "/a")["has_workflow"], ask(server, "/a/workflow")[2]) == (True, text.encode())
    (folder / "workflow.json").write_text("<script>", encoding="utf-8")
    assert ask(server, "/a/workflow")[0] == 422


@pytest.mark.parametrize("run", ["b", "..", "%2E%2E", "a%2F..%2Fa", "..%2F..%2Fruns%2Fa", "%00", "a%5C", "A", "link"])
def test_other_ids_are_not_found(server: ComfyUI, runs: Path, run: str) -> None:
    write_run(runs / "a")
    outside = write_run(server.base / "outside")
    (runs / "link").symlink_to(outside, target_is_directory=True)
    for path in ("", "/metrics", "/previews/50", "/workflow"):
        assert ask(server, f"/{run}{path}")[0] == 404, path
    for path, body in (("/note", {"note": "x"}), ("/delete", {})):
        assert ask(server, f"/{run}{path}", body)[0] in (404, 405), path
    assert (outside / "run.json").is_file()
    shutil.rmtree(outside)


@pytest.mark.parametrize("note", ["drums too loud", "\N{DRUM WITH DRUMSTICKS}\u202e <script>alert(1)</script>", "",
                                  "  "])
def test_note_is_kept(server: ComfyUI, runs: Path, note: str) -> None:
    write_run(runs / "a")
    assert ask(server, "/a/note", {"note": "before"})[0] == 200
    assert ask(server, "/a/note", {"note": note})[0] == 200
    assert told(server, "/a")["note"] == note.strip()


@pytest.mark.parametrize("body", [{"note": "x" * 4001}, {"note": 3}, {"note": None}, [1]])
def test_wrong_note_is_refused(server: ComfyUI, runs: Path, body: object) -> None:
    write_run(runs / "a")
    assert ask(server, "/a/note", body)[0] in (400, 422)
    assert told(server, "/a")["note"] == ""


def test_other_sites_are_refused(server: ComfyUI, runs: Path) -> None:
    write_run(runs / "a")
    assert ask(server, "/a/delete", {}, {"Content-Type": "text/plain"})[0] == 415
    assert (runs / "a").is_dir()


def test_deleting_keeps_the_adapter(server: ComfyUI, runs: Path) -> None:
    write_run(runs / "a", finished=True)
    adapter = server.base / "models" / "loras" / "a.safetensors"
    adapter.parent.mkdir(parents=True, exist_ok=True)
    adapter.touch()
    assert ask(server, "/a/delete", {})[0] == 200
    assert (list(runs.iterdir()), adapter.is_file()) == ([], True)
    assert ask(server, "/a/delete", {})[0] == 404
    adapter.unlink()


def test_used_run_is_kept(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a")
    with locks.held(folder, "trained"):
        assert told(server, "/a")["status"] == "running"
        status, _, content = ask(server, "/a/delete", {})
    assert told(server, "/a")["status"] == "stopped"
    assert (status, (folder / "run.json").is_file()) == (409, True)
    assert "is being trained" in json.loads(content)["error"]


def test_two_hundred_runs_are_quick(server: ComfyUI, runs: Path) -> None:
    for number in range(200):
        write_run(runs / f"run-{number:03}", steps=100, finished=True)
    assert len(told(server, "")["runs"]) == 200
    started = time.monotonic()
    status, _, content = ask(server, "")
    assert (status, time.monotonic() - started < 2.0) == (200, True)
    assert len(content) < 1_000_000


def history(server: ComfyUI, node: str, workflow: str) -> tuple[int, Any]:
    status, _, content = ask(server, f"/{node}/history?workflow={workflow}", of="nodes")
    return status, json.loads(content) if content else None


def test_node_shows_newest_saved_run(server: ComfyUI, runs: Path) -> None:
    """The latest state of a node of the workflow, when ComfyUI was started after it."""
    write_run(runs / "old", started=1000.0, ended="failed", node_id="77", workflow_id="w")
    newest = write_run(runs / "new", started=2000.0, node_id="77", workflow_id="w")
    write_run(runs / "other", started=3000.0, node_id="77", workflow_id="v")
    (newest / "previews").mkdir()
    (newest / "previews" / "step-000050.flac").write_bytes(b"fLaC")
    status, found = history(server, "77", "w")
    assert (status, found["run"], found["status"], found["training"]) == (200, "new", "cancelled", [50, 100])
    assert found["message"] == "It ended after step 60; step 50 is kept. Run again to continue from there."
    assert [point["step"] for point in found["points"]] == list(range(61))
    assert (found["points"][50]["loss"], found["points"][50]["heldout"]) == (1 / 50, 0.04)
    assert (found["metrics"]["heldout"], found["measured_on"]) == (0.04, "held_out")
    assert found["previews"] == [{"step": 50, "message": ""}]
    assert ask(server, "/77/runs/new/previews/50", of="nodes")[2] == b"fLaC"
    assert ask(server, "/77/runs/new/previews/51", of="nodes")[0] == 404
    assert history(server, "77", "x")[0] == 204
    assert history(server, "77", "")[0] == 204
    assert history(server, "78", "w")[0] == 204


def test_report_is_one_safe_file(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a", finished=True, name="<script>alert(1)</script>",
                       message=f"Nothing could be written into {runs}.")
    (folder / "previews").mkdir()
    (folder / "previews" / "step-000050.flac").write_bytes(b"fLaC")
    (folder / "finished.json").unlink()
    status, headers, content = ask(server, "/a/report")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    html = content.decode()
    assert POLICY in html  # the host may replace the header
    assert "Content-Disposition" not in headers
    assert str(server.base) not in html
    assert "<script" not in html
    assert "data:audio/flac;base64,ZkxhQw==" in html
    assert ask(server, "/a/report?download=1")[1]["Content-Disposition"].startswith("attachment; filename*=UTF-8''%3C")
    assert ask(server, "/b/report")[0] == 404


def test_report_shows_influence(server: ComfyUI, runs: Path) -> None:
    folder = write_run(runs / "a", finished=True)
    (folder / files.SONGS).write_text(json.dumps([{"name": "a.wav", "seconds": 2.0}]), encoding="utf-8")
    influence.write(folder / files.INFLUENCE, Influence(step=60, draws=16, songs=(
        SongInfluence(song="a.wav", score=-0.5, error=0.1),)))
    assert "harms (-0.50, error 0.10)" in ask(server, "/a/report")[2].decode()
