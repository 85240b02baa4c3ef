"""ComfyUI server process, driven through the API of its own web page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp

Status = Literal["success", "error", "interrupted"]
Prompt = Mapping[str, Mapping[str, Any]]
Event = tuple[str, dict[str, Any]]

PACK_NAME = "comfyui-side-step"
HEADLESS = ("--disable-api-nodes", "--database-url", "sqlite:///:memory:")
START_SECONDS = 300.0
REPLY_SECONDS = 15.0
TAIL_LINES = 40
ENDINGS: dict[str, Status] = {
    "execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


class ServerError(RuntimeError):
    """Failure of a server that did not start, died, or answered with an error."""


class WorkflowRejected(ServerError):
    """Refusal of a workflow; `node_errors` has the reasons by node id."""

    def __init__(self, reply: Mapping[str, Any], prompt: Prompt) -> None:
        self.node_errors: dict[str, Any] = reply.get("node_errors") or {}
        lines = [f"{reply['error']['message']} {reply['error'].get('details', '')}".strip()]
        for node, report in self.node_errors.items():
            lines += [f"node {node} ({prompt[node]['class_type']}): {error['message']}: {error['details']}"
                      for error in report["errors"]]
        super().__init__("\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """End of a workflow: `outputs` by node id and the host's `messages`, both from its history."""

    status: Status
    outputs: dict[str, dict[str, Any]]
    messages: list[list[Any]]
    events: list[Event]
    """Websocket events of the run."""
    exception_message: str = ""


class ComfyUI:
    """Context manager of a server that answers at `address` with this pack loaded.

    A `base` other than `host` holds models, input, output and the pack; with `base` equal to `host` (the user's own
    ComfyUI) nothing is written to that folder.
    """

    def __init__(self, host: Path, base: Path, *, pack: Path, port: int | None = None, extra_args: Sequence[str] = (),
                 env: Mapping[str, str] | None = None, echo: bool = False) -> None:
        self.host, self.base, self.pack = host.absolute(), base.absolute(), pack.absolute()
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.env = {**os.environ, **(env or {})}
        self.python = self.env.get("COMFYUI_PYTHON", sys.executable)
        self.extra_args = list(extra_args)
        self.echo = echo
        """Show the output instead of keeping it in `log`, and start the user's own ComfyUI as they would."""
        self.own = self.base == self.host
        self.log = (self.pack / ".cache" if self.own else self.base) / f"server-{self.port}.log"
        self.client_id = uuid.uuid4().hex
        self.events: list[Event] = []
        self._news = threading.Condition()
        self._first: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.host, env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=None if self.echo else log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_ready()
            self._listener = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
            self._listener.start()
            with self._news:
                if not self._news.wait_for(lambda: self.events, timeout=REPLY_SECONDS):
                    raise ServerError(f"ComfyUI's websocket at {self.address} stays silent.\n{self.tail()}")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._listener.join(REPLY_SECONDS)

    def command(self) -> list[str]:
        """Build the server's command line, and link the pack to a folder that it searches."""
        command = [self.python, "main.py", "--port", str(self.port), *self.extra_args]
        if "--cpu" not in self.extra_args and not has_accelerator(self.python):
            command.append("--cpu")
        if not (self.own and self.echo):
            command += HEADLESS
        nodes = self.base / "custom_nodes"
        if not self.own:
            link(self.pack, nodes / PACK_NAME)
            return [*command, "--base-directory", str(self.base)]
        if any(folder.resolve() == self.pack.resolve() for folder in nodes.iterdir()):
            return command
        link(self.pack, self.pack / ".cache" / "custom_nodes" / PACK_NAME)
        paths = {"sidestep": {"custom_nodes": str(self.pack / ".cache" / "custom_nodes")}}
        return [*command, "--extra-model-paths-config", write_paths(self.pack / ".cache" / "own_paths.yaml", paths)]

    def submit(self, prompt: Prompt, client_id: str | None = None) -> str:
        """Queue the workflow and return its id.  Raises WorkflowRejected.

        With another client's id the events go to that client, and `wait` has only the history."""
        body = {"prompt": prompt, "client_id": client_id or self.client_id}
        with self._news:
            first = len(self.events)
        try:
            prompt_id: str = self.post_json("/prompt", body)["prompt_id"]
        except HttpError as error:
            if error.code != 400:
                raise
            raise WorkflowRejected(json.loads(error.body), prompt) from None
        self._first[prompt_id] = first
        return prompt_id

    def wait(self, prompt_id: str, timeout: float = 600.0, on_event: Callable[[Event], None] | None = None) -> Outcome:
        """Wait for the workflow's end; `on_event` gets every event as it comes.  Raises ServerError, TimeoutError."""
        deadline = time.monotonic() + timeout
        seen = first = self._first.get(prompt_id, 0)
        while True:
            with self._news:
                if len(self.events) == seen:
                    self._news.wait(timeout=1.0)
                fresh, seen = self.events[seen:], len(self.events)
            for event in fresh:
                if on_event:
                    on_event(event)
            # The host broadcasts "status" whenever its queue changes, after it has written the history.
            if not fresh or any(kind == "status" for kind, _ in fresh):
                with contextlib.suppress(OSError):
                    entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
                    if entry:
                        return outcome(entry, self.events[first:])
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI died (exit code {self.process.returncode}).\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"The workflow did not end within {timeout:.0f} s.\n{self.tail()}")

    def run(self, prompt: Prompt, timeout: float = 600.0, on_event: Callable[[Event], None] | None = None) -> Outcome:
        """Submit the workflow and wait for its end."""
        return self.wait(self.submit(prompt), timeout, on_event)

    def interrupt(self) -> None:
        """Interrupt the running workflow, as the page's button does."""
        self.post_json("/interrupt", {})

    def get_json(self, path: str) -> Any:
        """Return the server's JSON reply to GET."""
        return self._request(path, None)

    def post_json(self, path: str, body: object) -> Any:
        """Return the server's JSON reply to POST; None if it is empty."""
        return self._request(path, json.dumps(body).encode())

    def place(self, reported: str) -> Path:
        """Find the file or folder that a node reports as `loras/a.safetensors` or `output/b`."""
        role, _, name = reported.partition("/")
        folders = [Path(folder) for folder in self.get_json("/internal/folder_paths").get(role, [])]
        places = [folder / name for folder in (*folders, self.base / role)]
        return next((path for path in places if path.exists()), places[0])

    def tail(self) -> str:
        """Return the end of the server's output, for error messages."""
        if self.echo:
            return "Its output is above."
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return f"The end of {self.log}:\n" + "\n".join(lines[-TAIL_LINES:])

    def _request(self, path: str, data: bytes | None) -> Any:
        request = urllib.request.Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        # A proxy that the environment names has no way to this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as reply:
                body = reply.read()
        except urllib.error.HTTPError as error:
            raise HttpError(path, error.code, error.read().decode(errors="replace")) from None
        return json.loads(body) if body else None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                self.get_json("/system_stats")
                return
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI ended while starting (exit code {self.process.returncode}).\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI was not ready within {START_SECONDS:.0f} s.\n{self.tail()}")
            time.sleep(0.1)

    async def _listen(self) -> None:
        """Collect events until the server closes the connection."""
        url = f"{self.address}/ws?clientId={self.client_id}"
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as connection:
                async for message in connection:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        with self._news:
                            self.events.append((event["type"], event["data"]))
                            self._news.notify_all()

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(REPLY_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class HttpError(ServerError):
    """Reply with an error status."""

    def __init__(self, path: str, code: int, body: str) -> None:
        self.code, self.body = code, body
        super().__init__(f"{path} answered {code}: {body[:2000]}")


def outcome(entry: Mapping[str, Any], events: list[Event]) -> Outcome:
    """Read a history entry."""
    messages = entry["status"]["messages"]
    ending, data = next(message for message in reversed(messages) if message[0] in ENDINGS)
    return Outcome(status=ENDINGS[ending], outputs=entry["outputs"], messages=messages, events=events,
                   exception_message=str(data.get("exception_message", "")).strip())


def free_port(first: int = 0) -> int:
    """Find a free port: any, or the lowest from `first` on."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", first))
            except OSError:
                first += 1
            else:
                return int(probe.getsockname()[1])


@lru_cache
def has_accelerator(python: str) -> bool:
    """True if that Python's PyTorch sees a GPU."""
    code = ("import sys, torch; sys.exit(not any(part.is_available() for part in "
            "(torch.cuda, torch.xpu, torch.backends.mps)))")
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def link(target: Path, path: Path) -> None:
    """Link `path` to the folder `target` (on Windows with a junction, which needs no privileges)."""
    if path.exists() and path.samefile(target):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()  # a junction that leads elsewhere; a folder with files in it would raise
        subprocess.run(["cmd", "/c", "mklink", "/J", str(path), str(target)], check=True, capture_output=True)
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(target, target_is_directory=True)


def write_paths(path: Path, paths: Mapping[str, Mapping[str, str | bool]]) -> str:
    """Write an extra-model-paths file for ComfyUI (JSON is YAML) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(paths), encoding="utf-8")
    return str(path)
