"""`side-step remote` and a real ComfyUI: songs up, progress, adapters down; over broken connections and restarts."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.examples import EXAMPLES, Example
from demo.server import ComfyUI, Prompt
from demo.workflow import DEMO
from sidestep_cli.main import main
from sidestep_cli.remote import graph, patience, workflow
from sidestep_cli.remote.credentials import KEY
from sidestep_cli.remote.server import Server
from sidestep_core.runs import files
from sidestep_core.training import metrics
from tests.gate import Gate, gate
from tests.host.test_pipeline import upstream, with_inputs
from tests.running import demo_comfyui, make_idle

ROOT = Path(__file__).parents[2]
STEPS, LONG = 5, 30
DATASET = "remote"
"""Of all trainings here: songs are encoded once."""
SECRET = "open-sesame-31"
WAIT = 400.0


@pytest.fixture
def songs(server: ComfyUI, tmp_path: Path) -> Path:
    """The demo's songs on this side."""
    return Path(shutil.copytree(server.base / "input" / "demo_songs", tmp_path / "my songs"))


@pytest.fixture
def door(server: ComfyUI) -> Iterator[Gate]:
    with gate(server.port) as made:
        yield made


def training(prompt: Prompt, name: str, steps: int = STEPS) -> dict[str, Any]:
    return upstream(with_inputs(prompt, {
        "SideStepPreprocessAudioFolder": {"max_seconds": 1.0, "folder": "nothing here", "dataset_name": DATASET},
        "SideStepTrainAdapter": {"max_steps": steps, "adapter_name": name},
        "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 100_000, "save_every": 100_000},
    }), "SideStepTrainAdapter")


@pytest.fixture
def written(prompt: Prompt, tmp_path: Path) -> Callable[..., Path]:
    """Write the workflow of a training to a file."""
    def write(name: str, steps: int = STEPS) -> Path:
        path = tmp_path / f"{name}.api.json"
        path.write_text(json.dumps(training(prompt, name, steps)), encoding="utf-8")
        return path

    return write


def without_titles(prompt: Prompt) -> dict[str, Any]:
    return {node: {"class_type": facts["class_type"], "inputs": facts["inputs"]} for node, facts in prompt.items()}


class Ended:
    """Exit code and output of a command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        capsys.readouterr()
        self.code = main(["remote", *map(str, words)])
        shown = capsys.readouterr()
        self.text = shown.out + shown.err
        self.events = [json.loads(line) for line in shown.out.splitlines()] if "--json" in words else []

    def texts(self, kind: str) -> str:
        return "\n".join(event["text"] for event in self.events if event["event"] == kind)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest(path) for path in folder.rglob("*") if path.is_file()}


# Workflow files


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_page_format_is_converted(server: ComfyUI, example: Example) -> None:
    """The page itself has drawn these files from their prompts."""
    values = json.loads(example.file.read_text(encoding="utf-8"))
    specs = {name: server.get_json(f"/object_info/{name}")[name] for name in graph.classes(values)}
    assert graph.prompt_of(values, specs) == without_titles(example.prompt_for_people())


def test_demo_is_converted_and_checked(server: ComfyUI) -> None:
    prompt = json.loads(DEMO.with_suffix(".api.json").read_text(encoding="utf-8"))
    found = workflow.load(DEMO, Server(server.address), [("4", "max_steps", 7)])
    assert found.prompt == without_titles(with_inputs(prompt, {"SideStepTrainAdapter": {"max_steps": 7}}))
    assert found.name("4") == "Train LoRA (ACE-Step) (node 4)"
    assert found.key != workflow.load(DEMO, Server(server.address), []).key


def test_missing_node_is_named(server: ComfyUI, prompt: Prompt, songs: Path, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.json"
    path.write_text(json.dumps({**prompt, "99": {"class_type": "SomebodysNode", "inputs": {}}}), encoding="utf-8")
    ended = Ended(capsys, path, "--host", server.address, "--songs", songs, "--as", "missing_node")
    assert ended.code == 1
    assert "lacks nodes of the workflow: SomebodysNode. Install" in ended.text
    assert not (server.base / "input" / "missing_node").exists()


def test_missing_model_is_named(server: ComfyUI, written: Callable[..., Path], songs: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    ended = Ended(capsys, written("a"), "--host", server.address, "--songs", songs, "--as", "missing_model", "--set",
                  "1.model=nobody_has_this.safetensors")
    assert ended.code == 1
    assert ("Load ACE-Step Checkpoint (node 1) wants the model 'nobody_has_this.safetensors' as model, which the "
            "server lacks. It has ") in ended.text
    assert "acestep_v1.5_demo_turbo.safetensors" in ended.text
    assert not (server.base / "input" / "missing_model").exists()


def test_refused_value_is_named(server: ComfyUI, written: Callable[..., Path],
                                capsys: pytest.CaptureFixture[str]) -> None:
    ended = Ended(capsys, written("refused"), "--host", server.address, "--set", "3.rank=0")
    assert ended.code == 1
    assert "ComfyUI refuses the workflow" in ended.text, ended.text
    assert "Configure LoRA (node 3): Value 0 smaller than min of 1: rank" in ended.text
    # ComfyUI takes the part without the training, which is taken back.
    make_idle(server)
    assert not list((server.base / "output" / "sidestep").glob("runs/refused*"))


def test_failure_is_told(server: ComfyUI, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    ended = Ended(capsys, written("fails"), "--host", server.address)
    assert ended.code == 1
    assert "Audio Folder to Dataset (node 2): There is no folder nothing here" in ended.text


# The whole way


def test_songs_go_and_adapter_comes(server: ComfyUI, written: Callable[..., Path], songs: Path, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    (songs / "cover.jpg").write_bytes(b"x")
    (songs / "live").mkdir()
    (songs / "live" / "neon \u00e9.lrc").write_text("[00:00.00] la", encoding="utf-8")
    words = (written("remote_a"), "--host", server.address, "--songs", songs, "--as", "remote songs", "--output-dir",
             tmp_path / "out", "--json")
    ended = Ended(capsys, *words)
    assert ended.code == 0, ended.text
    there = contents(server.base / "input" / "remote songs")
    assert there == {name: value for name, value in contents(songs).items() if name != "cover.jpg"}
    published = server.base / "models" / "loras" / "remote_a.safetensors"
    assert contents(tmp_path / "out") == {published.name: digest(published)}
    result = ended.events[-1]
    assert (result["event"], result["adapter"]) == ("result", str(tmp_path / "out" / published.name))
    assert (result["steps"], result["trigger_word"], result["sha256"]) == (STEPS, "sidestepdemo", digest(published))
    steps = [event["step"] for event in ended.events if event["event"] == "progress" and "loss" in event]
    assert steps == sorted(set(steps))
    assert f"{len(there)} files in input/remote songs of the server, {len(there)} sent now" in ended.texts("message")
    again = Ended(capsys, *words)
    assert again.code == 0
    assert ", 0 sent now" in again.texts("message")
    assert again.events[-1]["adapter"] == result["adapter"]
    assert len(list((tmp_path / "out").iterdir())) == 1
    attached = Ended(capsys, *words, "--attach", "--plain")
    assert attached.code == 0
    assert attached.events[-1]["adapter"] == result["adapter"]


def test_only_changed_songs_are_sent(server: ComfyUI, written: Callable[..., Path], songs: Path,
                                     capsys: pytest.CaptureFixture[str], door: Gate) -> None:
    words = (written("changed", 1), "--host", f"127.0.0.1:{door.port}", "--songs", songs, "--as", "changed", "--json",
             "--output-dir", songs.parent / "out")
    assert Ended(capsys, *words).code == 0
    text = next(songs.rglob("*.txt"))
    text.write_text(text.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    next(songs.rglob("*.flac")).unlink()
    before = door.requests.count(b"POST /upload/image HTTP/1.1")
    ended = Ended(capsys, *words)
    assert ended.code == 0
    assert door.requests.count(b"POST /upload/image HTTP/1.1") == before + 1
    assert "also holds" in ended.texts("notice")
    assert ".flac" in ended.texts("notice")


def test_cut_upload_and_download_go_on(server: ComfyUI, written: Callable[..., Path], songs: Path, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str], door: Gate,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    door.cuts += [(b"POST /upload/image", 100_000), (b"POST /upload/image", 20), (b"GET /sidestep/runs/", -100),
                  (b"GET /queue", -5), (b"POST /prompt", -20), (b"GET /history", -1)]
    big = songs / "big.wav"
    big.write_bytes((songs / "neon.wav").read_bytes() if (songs / "neon.wav").exists() else next(
        songs.rglob("*.wav")).read_bytes())
    ended = Ended(capsys, written("cut", 1), "--host", f"http://127.0.0.1:{door.port}", "--songs", songs, "--as", "cut",
                  "--output-dir", tmp_path / "out", "--json")
    assert ended.code == 0, ended.text
    assert door.cuts == []
    assert contents(server.base / "input" / "cut") == contents(songs)
    published = server.base / "models" / "loras" / "cut.safetensors"
    assert contents(tmp_path / "out") == {published.name: digest(published)}
    assert len(list((server.base / "output" / "sidestep" / "runs").glob("cut-*"))) == 1


def test_cut_file_is_resumed(server: ComfyUI, written: Callable[..., Path], songs: Path, tmp_path: Path,
                             capsys: pytest.CaptureFixture[str], door: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    host = ("--host", f"http://127.0.0.1:{door.port}", "--output-dir", tmp_path / "out", "--json")
    assert Ended(capsys, written("resumed", 1), "--songs", songs, "--as", "resumed", *host).code == 0
    published = server.base / "models" / "loras" / "resumed.safetensors"
    [run] = (server.base / "output" / "sidestep" / "runs").glob("resumed-*")
    (tmp_path / "out" / published.name).unlink()
    half = published.stat().st_size // 2
    sha256 = digest(published)
    partial = tmp_path / "out" / f".{sha256[:16]}.part"
    partial.write_bytes(published.read_bytes()[:half])
    door.requests.clear()
    words = (written("resumed", 1), "--songs", songs, "--as", "resumed", *host, "--attach")
    assert Ended(capsys, *words).code == 0
    assert contents(tmp_path / "out") == {published.name: sha256}
    other = tmp_path / "out" / published.name
    other.write_bytes(b"another adapter of this name")
    partial.write_bytes(b"x" * half)
    assert Ended(capsys, *words).code == 0
    assert contents(tmp_path / "out") == {published.name: digest(other), "resumed-2.safetensors": sha256}
    assert f"GET /sidestep/runs/{run.name}/adapters/{published.name}".encode() in b"\n".join(door.requests)


# Logins


def test_key_opens_the_door(server: ComfyUI, written: Callable[..., Path], tmp_path: Path,
                            capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with gate(server.port, f"X-Door: {SECRET}".encode()) as door:
        words = (written("locked"), "--host", f"http://127.0.0.1:{door.port}", "--attach")
        ended = Ended(capsys, *words)
        assert ended.code == 1
        assert "asks for a key (401). See --auth" in ended.text
        assert Ended(capsys, *words, "--auth", "bearer").text.count("does not accept the key (401)") == 1
        ended = Ended(capsys, *words, "--auth", "X-Door")
        assert "This workflow is not at http://127.0.0.1" in ended.text
    assert SECRET not in ended.text
    assert SECRET not in "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.*") if path.is_file())


# Ends and beginnings


class Client:
    """A command in a process of its own, whose lines are read as they come."""

    def __init__(self, *words: object) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sidestep_cli", "remote", *map(str, words), "--json"], env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8")
        finally:
            signal.signal(signal.SIGINT, before)
        self.lines: queue.Queue[str] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def until(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read up to an event."""
        while True:
            line = self.lines.get(timeout=WAIT)
            assert line, f"it ended before that: {self.seen}"
            event = json.loads(line)
            self.seen.append(event)
            if found(event):
                return event

    def ended(self) -> int:
        """Exit code, after all lines were read."""
        while line := self.lines.get(timeout=WAIT):
            assert line.startswith("{"), line + "".join(iter(lambda: self.lines.get(timeout=WAIT), ""))
            self.seen.append(json.loads(line))
        return self.process.wait(WAIT)


def has_trained(steps: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "progress" and "loss" in event and event["step"] >= steps


@pytest.mark.slow
def test_ctrl_c_detaches_and_stop_stops(server: ComfyUI, written: Callable[..., Path], songs: Path,
                                        tmp_path: Path) -> None:
    words = (written("detached", 100_000), "--host", server.address, "--songs", songs, "--as", "detached",
             "--output-dir", tmp_path / "out")
    client = Client(*words)
    first = client.until(has_trained(2))
    client.process.send_signal(signal.SIGINT)
    assert client.ended() == 130
    assert client.seen[-1]["text"] == (f"The workflow goes on at {server.address}, and so does its bill. The same "
                                       "command continues.")
    again = Client(*words)
    assert again.until(has_trained(0))["step"] > first["step"]
    assert "The workflow is at the server already." in [event.get("text") for event in again.seen]
    stopper = Client(*words, "--stop")
    assert stopper.ended() == 0, stopper.seen
    assert again.ended() == 130, again.seen[-6:]
    result = stopper.seen[-1]
    assert Path(result["adapter"]).name.startswith("detached-step-")
    assert digest(Path(result["adapter"])) == digest(server.base / "models" / "loras" / Path(result["adapter"]).name)
    assert again.seen[-2]["adapter"] == result["adapter"]


@pytest.mark.slow
def test_ctrl_c_may_stop(server: ComfyUI, written: Callable[..., Path], songs: Path, tmp_path: Path) -> None:
    client = Client(written("ctrl_c", 100_000), "--host", server.address, "--songs", songs, "--as", "ctrl_c",
                    "--output-dir", tmp_path / "out", "--ctrl-c", "stop")
    client.until(has_trained(2))
    client.process.send_signal(signal.SIGINT)
    assert client.ended() == 130
    assert [path.name for path in (tmp_path / "out").glob("ctrl_c-step-*.safetensors")], client.seen[-5:]
    assert server.get_json("/queue") == {"queue_running": [], "queue_pending": []}


@pytest.mark.slow
def test_paused_training_gives_way(server: ComfyUI, written: Callable[..., Path], songs: Path, tmp_path: Path) -> None:
    """It waits under another id meanwhile."""
    client = Client(written("gives_way", 40), "--host", server.address, "--songs", songs, "--as", "gives_way",
                    "--output-dir", tmp_path / "out")
    client.until(has_trained(2))
    [run] = (server.base / "output" / "sidestep" / "runs").glob("gives_way-*")
    server.post_json(f"/sidestep/runs/{run.name}/pause", {})
    server.run({"1": {"class_type": "PrimitiveString", "inputs": {"value": "a generation"}},
                "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}})
    server.post_json(f"/sidestep/runs/{run.name}/continue", {})
    assert client.ended() == 0, client.seen
    assert client.seen[-1]["steps"] == 40


@pytest.mark.slow
def test_removed_workflow_is_not_sent_again(server: ComfyUI, written: Callable[..., Path], songs: Path,
                                            tmp_path: Path) -> None:
    """It waits behind another one, and is taken out of the list."""
    before = server.submit({"1": {"class_type": "TestsDriveSteps", "inputs": {
        "metrics_file": str(tmp_path / "driven" / "metrics.jsonl"), "steps": 100_000, "step_seconds": 0.05,
        "pause_at_end": 0.0}}})
    words = (written("removed", 100_000), "--host", server.address, "--songs", songs, "--as", "removed",
             "--output-dir", tmp_path / "out")
    client = Client(*words)
    client.until(lambda event: event.get("text") == "The workflow waits for its turn, 1 before it.")
    assert Client(*words, "--stop").ended() == 0
    assert client.ended() == 130
    queue_now = server.get_json("/queue")
    assert [item[1] for item in queue_now["queue_running"]] == [before]
    assert queue_now["queue_pending"] == []


@pytest.mark.slow
def test_restarted_server_goes_on(server: ComfyUI, written: Callable[..., Path], songs: Path, tmp_path: Path) -> None:
    base, datasets = tmp_path / "base", Path("output", "sidestep", "datasets")
    if (server.base / datasets / DATASET).exists():
        shutil.copytree(server.base / datasets / DATASET, base / datasets / DATASET)  # both find the songs encoded
    with gate(0) as door:
        with demo_comfyui(base) as first:
            door.target = first.port
            client = Client(written("restarted", LONG), "--host", f"http://127.0.0.1:{door.port}", "--songs", songs,
                            "--as", "restarted", "--output-dir", tmp_path / "out", "--set", "16.save_every=1")
            client.until(has_trained(3))
            door.shut = True
            first.process.kill()
            first.process.wait()
        client.until(lambda event: event["event"] == "notice" and "Trying again" in event["text"])
        with demo_comfyui(base) as second:
            door.target, door.shut = second.port, False
            assert client.ended() == 0, client.seen
            texts = "\n".join(str(event.get("text")) for event in client.seen)
            assert "The server answers again." in texts
            assert texts.count("has forgotten the workflow. It gets it again") == 1
            [run] = (base / "output" / "sidestep" / "runs").iterdir()
            rows = [row["step"] for row in metrics.read(run / files.METRICS) if "loss" in row]
            assert rows == list(range(1, LONG + 1))
            assert client.seen[-1]["steps"] == LONG
            assert digest(tmp_path / "out" / "restarted.safetensors") == client.seen[-1]["sha256"]
            make_idle(second)
