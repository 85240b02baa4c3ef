"""Errors of every node end on the node itself, and what it shows is kept for a page that is opened later."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from demo.setup import PACK
from tests.host.pack import pack_module

NODE = "7"


@pytest.fixture(scope="module")
def reporting(comfy: ModuleType) -> Any:
    """nodes/reporting.py in this process, with a server that nobody is connected to."""
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host.reporting")


def node(reporting: Any, outcome: Any) -> Any:
    """A node that returns or raises this."""
    class Node:
        @classmethod
        def execute(cls, **_: object) -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return reporting.io.NodeOutput(outcome, ui={"sidestep": [{"message": outcome}]})

    return reporting.reported(Node)


def executed(reporting: Any, outcome: Any) -> None:
    from comfy_execution.utils import CurrentNodeContext

    with CurrentNodeContext("prompt", NODE, None):
        node(reporting, outcome).execute()


def history(reporting: Any) -> Any:
    return reporting.events._histories[NODE]


@pytest.fixture(scope="module")
def nodes(reporting: Any) -> list[Any]:
    """Node classes of the pack, loaded as ComfyUI loads them."""
    name = "side_step_whole"
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    with ThreadPoolExecutor(1) as thread:  # where Playwright runs, this one has a loop already
        extension = thread.submit(asyncio.run, sys.modules[name].comfy_entrypoint()).result()
        return thread.submit(asyncio.run, extension.get_node_list()).result()


def test_every_node_reports_errors(nodes: list[Any]) -> None:
    assert len(nodes) == 24
    assert [each.__name__ for each in nodes if not hasattr(each.execute, "__wrapped__")] == []


def test_error_becomes_the_node_state(reporting: Any) -> None:
    with pytest.raises(reporting.SideStepError):
        executed(reporting, reporting.SideStepError("There is no folder x."))
    assert (history(reporting).status, history(reporting).message) == ("failed", "There is no folder x.")


def test_next_result_ends_the_failure(reporting: Any) -> None:
    with pytest.raises(KeyError):
        executed(reporting, KeyError("bpm"))
    assert history(reporting).status == "failed"
    executed(reporting, "3 songs ready.")
    assert (history(reporting).status, history(reporting).answer()["output"]) == (
        "finished", {"message": "3 songs ready."})


def test_other_workflow_is_another_node(reporting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for workflow in ("first", "second"):
        monkeypatch.setattr(reporting.events, "_workflow_of", lambda _, name=workflow: name)
        with pytest.raises(KeyError):
            executed(reporting, KeyError("bpm"))
        assert history(reporting).workflow == workflow


def test_interrupt_is_no_error(comfy: ModuleType, reporting: Any) -> None:
    executed(reporting, "ready")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        executed(reporting, comfy.model_management.InterruptProcessingException())
    assert history(reporting).status == "finished"


def test_messages_hold_no_server_path(comfy: ModuleType, reporting: Any) -> None:
    import folder_paths

    wording = pack_module("nodes.host.wording")
    output, [loras, *_] = folder_paths.get_output_directory(), folder_paths.get_folder_paths("loras")
    assert wording.without_places(f"{output}/sidestep/runs/a b is damaged.") == "output/sidestep/runs/a b is damaged."
    assert wording.without_places(f"Kept: {loras}/a.safetensors.") == "Kept: loras/a.safetensors."
    assert wording.without_places("There is no folder /srv/music/mine.") == "There is no folder mine."
    assert wording.without_places(r"C:\Users\me\x.wav is cut off.") == "x.wav is cut off."
    for text, said in (
            ("'/srv/my music/a b.wav' and '/srv/b.wav'", "'a b.wav' and 'b.wav'"),
            ("/srv/my music/mine holds no audio, use 4/4", "mine holds no audio, use 4/4"),
            ("[Errno 2] No such file: 'C:\\\\Users\\\\my songs\\\\x.wav'", "[Errno 2] No such file: 'x.wav'"),
            (r"\\nas\share\my songs\a.wav is gone", "a.wav is gone"), ("file:///srv/x/y.wav", "y.wav"),
            (f"{folder_paths.base_path}.old/x is gone.", "x is gone.")):
        assert wording.without_places(text) == said
    for kept in ("4/4 or 3/4", "self / cross", "10 s/step", "https://example.org/a/b", "songs/one.wav", "MM/DD",
                 "~/x/y", r"leave out \ / : * ?", r"says 'zxq, \x83\x8d' and \n", "layers.0.*/rank", "</caption> text"):
        assert wording.without_places(kept) == kept


@pytest.mark.parametrize(("place", "secret"), [
    ("/srv/my music/the (old) songs/a b.wav", "srv"), ("/mnt/h\u00f6rt/x.y/a.wav", "mnt"),
    (r"D:\Users\Jo Doe\a b.wav", "Users"), (r"\\nas\share\a b.wav", "nas")])
def test_sentences_hold_no_path(comfy: ModuleType, place: str, secret: str) -> None:
    """Every text with something put into it, as if that were a path."""
    wording = pack_module("nodes.host.wording")
    texts = [text for folder in ("sidestep_core", "nodes") for file in (PACK / folder).rglob("*.py")
             for text in filled(file.read_text(encoding="utf-8"), place)]
    assert len(texts) > 400
    assert [text for text in texts if secret in wording.without_places(text)] == []


def filled(source: str, place: str) -> list[str]:
    """Its sentences that hold a value, with `place` for each value but those that only end a word."""
    found = [[part.value if isinstance(part, ast.Constant) else None for part in node.values]
             for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr)]
    told = []
    for parts in found:
        text = ""
        for part in parts:
            text += part if part is not None else "" if text[-1:].isalnum() or text.endswith((".", "_")) else place
        if place in text and " " in text.replace(place, "").strip() and "(?" not in text:  # no pattern
            told.append(text)
    return told


def test_stages_name_their_nodes(comfy: ModuleType) -> None:
    wording = pack_module("nodes.host.wording")
    for text, shown in (
            ("It is damaged. Preprocess the songs again.",
             "It is damaged. Preprocess the songs again (Audio Folder to Dataset)."),
            ("Use top_k, or estimate the gradients again, or stop.",
             "Use top_k, or estimate the gradients again (Estimate Gradients), or stop."),
            ("Preprocess the songs themselves.", "Preprocess the songs (Audio Folder to Dataset) themselves.")):
        assert wording.readable(text) == shown
        assert wording.readable(shown) == shown
        assert wording.sentence(wording.SideStepError(text)) == shown


def test_every_stage_has_a_node(nodes: list[Any]) -> None:
    stages = pack_module("nodes.host.wording").STAGES
    assert set(stages.values()) <= {node.define_schema().display_name for node in nodes}
    texts = [node.value.lower() for file in (PACK / "sidestep_core").rglob("*.py")
             for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    asked = {found[1] for text in texts for found in re.finditer(
        r"\b((?:preprocess|estimate|train|build|import|apply|merge|split|caption|analyze) the \w+) again\b", text)}
    assert asked <= stages.keys()
    assert {stage for stage in stages if any(stage in text for text in texts)} == stages.keys()


def test_node_output_holds_no_path(reporting: Any, comfy: ModuleType) -> None:
    import folder_paths

    executed(reporting, f"Saved as {folder_paths.get_output_directory()}/a.json")
    assert history(reporting).output == {"message": "Saved as output/a.json"}


def test_events_and_answers_hide_paths(reporting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(reporting.events.PromptServer.instance, "send_sync", lambda _, event: sent.append(event))
    progress = pack_module("sidestep_core.progress").Progress(
        stage="train", step=1, total=2, notice="It is in /srv/my music/x.")
    reporting.events.record(NODE, "run", progress)
    reporting.events.flush(NODE)
    preview = pack_module("nodes.routes.history").Preview(step=1, message="/srv/a/b is full.")
    reporting.events.announce_preview(NODE, "run", preview)
    reporting.events.finish(NODE, "run", "failed", "/srv/a/c is damaged.")
    assert [event["message"] for event in sent] == ["It is in x.", "It is in x.", "c is damaged."]
    assert sent[1]["previews"][0]["message"] == "b is full."
