"""Workflow files: the page's format and the server's, checked against the server before anything is sent."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sidestep_core.errors import ConfigError
from sidestep_core.io import strict_json
from sidestep_core.io.strict_json import shown

from . import graph
from .server import RemoteError, Server, part

Prompt = dict[str, dict[str, Any]]
"""Node id -> class_type and inputs, as the server takes it."""
Specs = Mapping[str, Mapping[str, Any]]
"""Class of a node -> its description by the server."""

OURS = "SideStep"
TRAINER = "SideStepTrainAdapter"
FOLDER = "folder"
"""Input of our nodes that read songs."""
MODEL_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
CHOICES_SHOWN = 5
_NAMESPACE = uuid.UUID("6d1f0c52-4a53-5a0e-9d0b-2f1f6b7b6c11")


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A workflow as the server takes it."""

    prompt: Prompt
    graph: Mapping[str, Any] | None
    """As the page saves it, if the file was of that format; the server keeps it with the run."""
    titles: Mapping[str, str]
    """Node id -> name on the screen."""

    @property
    def key(self) -> str:
        """Hash of what is done, by which a workflow is found again on a server."""
        return hashlib.sha256(json.dumps(self.prompt, sort_keys=True).encode()).hexdigest()

    def id(self, attempt: int) -> str:
        """Id of an attempt: the same in every call, so that nothing has to be remembered."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.key}/{attempt}"))

    def nodes(self, beginning: str) -> list[str]:
        """Ids of the nodes whose class begins so."""
        return [node for node, facts in self.prompt.items() if facts["class_type"].startswith(beginning)]

    def name(self, node: str) -> str:
        """Name of a node for messages."""
        return f"{self.titles.get(node) or self.prompt.get(node, {}).get('class_type', 'A node')} (node {node})"


def load(path: Path, server: Server, changes: Sequence[tuple[str, str, Any]]) -> Workflow:
    """Read a workflow file, and make the changes (node, input, value).

    ConfigError if it cannot be converted; RemoteError for nodes and models that the server lacks.
    """
    values = strict_json.as_object(strict_json.read(path), path.name)
    drawn = isinstance(values.get("nodes"), list) and "links" in values
    if not drawn:
        values = values["prompt"] if isinstance(values.get("prompt"), dict) else values
        _require_prompt(values, path)
    classes = graph.classes(values) if drawn else sorted({node["class_type"] for node in values.values()})
    specs = _specs(server, classes)
    prompt = graph.prompt_of(values, specs) if drawn else {
        node: {"class_type": facts["class_type"], "inputs": dict(facts["inputs"])} for node, facts in values.items()}
    for node, name, value in changes:
        if node not in prompt:
            raise ConfigError(f"--set {node}.{name}: the workflow has no node {node!r}. It has {', '.join(prompt)}.")
        prompt[node]["inputs"][name] = value
    titles = {node: str(specs[facts["class_type"]].get("display_name") or "") for node, facts in prompt.items()}
    workflow = Workflow(prompt=prompt, graph=values if drawn else None, titles=titles)
    for problem in _missing_models(workflow, specs):
        raise RemoteError(problem)
    return workflow


def with_songs(workflow: Workflow, folder: str) -> Workflow:
    """Return the workflow with its nodes reading the songs of this folder of the server's input folder."""
    readers = {node: facts["inputs"][FOLDER] for node, facts in workflow.prompt.items()
               if facts["class_type"].startswith(OURS) and isinstance(facts["inputs"].get(FOLDER), str)}
    if not readers:
        raise ConfigError("--songs: no node of the workflow reads a folder of songs. Leave it out, or use a workflow "
                          "with one.")
    if len(set(readers.values())) > 1:
        found = ", ".join(f"{workflow.name(node)} reads {shown(folder)}" for node, folder in readers.items())
        raise ConfigError(f"--songs: {found}. One folder is sent, so let all of them read the same with "
                          "--set NODE.folder=NAME.")
    prompt = {node: {**facts, "inputs": {**facts["inputs"], FOLDER: folder}} if node in readers else facts
              for node, facts in workflow.prompt.items()}
    return Workflow(prompt=prompt, graph=workflow.graph, titles=workflow.titles)


def _require_prompt(values: Mapping[str, Any], path: Path) -> None:
    fits = values and all(isinstance(node, dict) and isinstance(node.get("class_type"), str)
                          and isinstance(node.get("inputs"), dict) for node in values.values())
    if not fits:
        raise ConfigError(f"{path.name} is no workflow of ComfyUI. {graph.EXPORT}")


def _specs(server: Server, classes: Sequence[str]) -> Specs:
    """Ask the server for each class of node.  RemoteError names those that it lacks."""
    found = {name: strict_json.as_object(server.get(f"/object_info/{part(name)}"), name).get(name) for name in classes}
    if missing := [name for name, spec in found.items() if not isinstance(spec, dict)]:
        own = " Side-Step's are those of this repository: install it in custom_nodes there, and restart." if any(
            name.startswith(OURS) for name in missing) else ""
        raise RemoteError(f"ComfyUI at {server.url} lacks nodes of the workflow: {', '.join(missing)}. Install what "
                          f"they belong to, and start it again.{own}")
    return {name: spec for name, spec in found.items() if isinstance(spec, dict)}


def _missing_models(workflow: Workflow, specs: Specs) -> Iterator[str]:
    """Sentences about model files that the server lacks: known before gigabytes of songs are sent."""
    for node, facts in workflow.prompt.items():
        for name, (kind, options) in graph.inputs_of(specs[facts["class_type"]]).items():
            value, choices = facts["inputs"].get(name), graph.choices(kind, options)
            models = [str(choice) for choice in choices if str(choice).endswith(MODEL_ENDINGS)]
            # Some nodes take a name with the kind of its folder, which no list shows: the server decides about those.
            known = {name for choice in models for name in (choice, PurePosixPath(choice).name)}
            if choices and isinstance(value, str) and value.endswith(MODEL_ENDINGS) and value not in choices and (
                    PurePosixPath(value).name not in known):
                there = f"It has {', '.join(models[:CHOICES_SHOWN])}" if models else "It has none"
                yield (f"{workflow.name(node)} wants the model {shown(value)} as {name}, which the server lacks. "
                       f"{there}{' and others' if len(models) > CHOICES_SHOWN else ''}. Copy it there, or choose "
                       f"another one with --set {node}.{name}=FILE.")
