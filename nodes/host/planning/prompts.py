"""Nodes of a prompt in API format, as the page sends it: their widgets and links, read without running anything.

A prompt is untrusted: whatever is not as expected is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ....sidestep_core.errors import SideStepError
from ....sidestep_core.sentence import Sentence

MAX_LINKS = 50
"""Longest chain of nodes that is followed."""


class NotKnown(SideStepError):
    """Part of a workflow that is known only once it runs; the sentence says so."""

    def __init__(self, sentence: Sentence) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@dataclass(frozen=True)
class Node:
    """One node of a prompt."""

    prompt: Mapping[str, object]
    id: str
    kind: str
    inputs: Mapping[str, object]

    @classmethod
    def find(cls, prompt: Mapping[str, object], node_id: str) -> Node:
        """Read a node; one of no kind and without inputs if the prompt has none of this id."""
        content = prompt.get(node_id)
        if not isinstance(content, Mapping):
            return cls(prompt, node_id, "", {})
        kind, inputs = content.get("class_type"), content.get("inputs")
        return cls(prompt, node_id, kind if isinstance(kind, str) else "",
                   inputs if isinstance(inputs, Mapping) else {})

    def source(self, name: str) -> Node | None:
        """Node that is connected to an input; None if none is."""
        link = self.inputs.get(name)
        return Node.find(self.prompt, str(link[0])) if isinstance(link, list) and link else None

    def value(self, name: str) -> object:
        """Value of a widget, also of one that takes it from a primitive node."""
        source = self.source(name)
        if source is None:
            return self.inputs.get(name)
        if source.kind.startswith("Primitive") and "value" in source.inputs and source.source("value") is None:
            return source.inputs["value"]
        raise NotKnown(Sentence("{name} comes from another node: it is known once the workflow runs.", name=name))

    def text(self, name: str, usual: str = "") -> str:
        """Value of a widget with a text."""
        value = self.value(name)
        return value if isinstance(value, str) else usual

    def widgets(self, *linked: str) -> dict[str, object]:
        """Values of all widgets; `linked` are the inputs that take no widget."""
        return {str(name): self.value(str(name)) for name in self.inputs if name not in linked}
