"""A workflow as the page saves it, turned into the format of the server.

The page keeps a node's values by position, and its own program gives them names.  Here the server's description of each
node does, and every value is checked against it: what is not certain is refused, and the person sent to the page's own
export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from sidestep_core.errors import ConfigError
from sidestep_core.io.record import parse
from sidestep_core.io.strict_json import BadJson, shown

EXPORT = "Open it in ComfyUI, and save it with the menu's Workflow > Export (API); then give that file."
MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
"""Nodes of the page alone."""
KINDS: Mapping[str, tuple[type, ...]] = {"INT": (int,), "FLOAT": (int, float), "STRING": (str,), "BOOLEAN": (bool,)}
"""Kind of a widget -> types of its values."""
COMBO = "COMBO"
DYNAMIC = "COMFY_"
"""Beginning of kinds whose widgets depend on other values."""
SEEDS = ("seed", "noise_seed")
CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
SURPLUS = (None, "", "image", "audio")
"""Values of buttons, which a file may hold at the end."""

Graph = Mapping[str, Any]
Node = Mapping[str, Any]
Spec = Mapping[str, Any]
Source = tuple[int, int]
"""Node and output that a link comes from."""


def classes(graph: Graph) -> list[str]:
    """Classes of the nodes that the server runs.  ConfigError for nodes that are graphs themselves."""
    subgraphs = {str(one.get("id")) for one in (graph.get("definitions") or {}).get("subgraphs") or ()}
    groups = set(((graph.get("extra") or {}).get("groupNodes")) or ())
    found = {str(node["type"]) for node in _active(graph)}
    for name in sorted(found):
        if name in subgraphs or name.removeprefix("workflow>").removeprefix("workflow/") in groups:
            _refuse("it has a subgraph, which only ComfyUI's page can take apart")
    return sorted(found - {*NOTES, REROUTE, PRIMITIVE})


def prompt_of(graph: Graph, specs: Mapping[str, Spec]) -> dict[str, dict[str, Any]]:
    """Convert a graph.  ConfigError with the reason, and a way, where that is not certain."""
    nodes = {int(node["id"]): node for node in _nodes(graph)}
    links = dict(_links(graph))
    prompt = {}
    for node in sorted(_active(graph), key=lambda node: int(node["id"])):
        if node["type"] in (*NOTES, REROUTE, PRIMITIVE):
            continue
        inputs = dict(_values(node, specs[node["type"]]))
        for given in node.get("inputs") or ():
            if given.get("link") is not None:
                inputs.pop(given["name"], None)
                inputs |= _linked(str(given["name"]), given["link"], nodes, links)
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    if not prompt:
        _refuse("it has no node to run")
    return prompt


def inputs_of(spec: Spec) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Kind and options of each input of a node, in their order."""
    found: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for section in ("required", "optional"):
        given = (spec.get("input") or {}).get(section) or {}
        order = (spec.get("input_order") or {}).get(section) or list(given)
        for name in order:
            kind, *options = given[name]
            found[name] = kind, options[0] if options and isinstance(options[0], dict) else {}
    return found


def choices(kind: Any, options: Mapping[str, Any]) -> Sequence[Any]:
    """Choices of a list; empty for other inputs, and lists that uploads add to."""
    if any(name.endswith("_upload") for name in options):
        return ()
    found = kind if isinstance(kind, list) else options.get("options") if kind == COMBO else None
    return found if isinstance(found, list) else ()


def _values(node: Node, spec: Spec) -> Iterator[tuple[str, Any]]:
    """Names and values of a node's widgets."""
    inputs = inputs_of(spec)
    slots = list(_slots(node, inputs))
    kept = node.get("widgets_values")
    if isinstance(kept, dict):
        yield from ((name, kept[name]) for name in slots if name and name in kept)
        return
    values = list(kept or ())
    while len(values) > len(slots) and values[-1] in SURPLUS:
        values.pop()
    if len(values) > len(slots):
        _refuse(f"{_name(node)} has {len(values)} values, the server's has {len(slots)}")
    _require_order(node, slots)
    for name, value in zip(slots, values, strict=False):
        if not name:
            if value not in CONTROLS:
                _refuse(f"{_name(node)} has {shown(value)} where a seed's control is expected")
            continue
        _require_kind(node, name, value, *inputs[name])
        yield name, value
    for name in slots[len(values):]:
        if name:  # added since the file was saved
            yield from _default(name, *inputs[name])


def _slots(node: Node, inputs: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> Iterator[str]:
    """Names of a node's widgets in the order of their values; empty for the control behind a seed."""
    for name, (kind, options) in inputs.items():
        if isinstance(kind, str) and kind.startswith(DYNAMIC):
            _refuse(f"{_name(node)} has inputs that depend on its values ({name})")
        if not (isinstance(kind, list) or kind == COMBO or kind in KINDS) or options.get("forceInput"):
            continue
        yield name
        usual = kind == "INT" and name in SEEDS
        if options.get("control_after_generate", usual):
            yield ""


def _require_order(node: Node, slots: Sequence[str]) -> None:
    """Compare with the names that newer files hold beside the values."""
    known = [name for name in slots if name]
    widgets = [given["name"] for given in node.get("inputs") or () if given.get("widget") is not None]
    named = [name for name in widgets if name in known]
    if named and named != known[:len(named)]:
        _refuse(f"{_name(node)} was saved by another version of it: its inputs are in another order")


def _require_kind(node: Node, name: str, value: Any, kind: Any, options: Mapping[str, Any]) -> None:
    if isinstance(kind, str) and kind in KINDS:
        fits = isinstance(value, KINDS[kind]) and (kind == "BOOLEAN" or not isinstance(value, bool))
        # The page saves 1.0 as 1, and may save 1 as 1.0.
        fits = fits or (kind == "INT" and isinstance(value, float) and value.is_integer())
    else:
        fits = isinstance(value, (str, int, float))
    if not fits:
        _refuse(f"{_name(node)} has {shown(value)} as {name}, which does not fit")
    if options.get("dynamicPrompts") and isinstance(value, str) and "{" in value and "|" in value:
        _refuse(f"{_name(node)} has a text with {{choices|in braces}}, which ComfyUI's page draws from")


def _default(name: str, kind: Any, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if "default" in options:
        yield name, options["default"]
    elif found := choices(kind, options):
        yield name, found[0]


def _linked(name: str, link: Any, nodes: Mapping[int, Node], links: Mapping[Any, Source]) -> Iterator[tuple[str, Any]]:
    """Value of an input that a link leads to: the node that it comes from, or a constant of the page."""
    passed = set()
    while True:
        if link not in links or link in passed:
            _refuse(f"a link to {name} leads nowhere")
        passed.add(link)
        source, output = links[link]
        node = nodes.get(source)
        if node is None:
            _refuse(f"a link to {name} comes from a node that is not there")
        if node.get("mode") == BYPASSED:
            _refuse(f"{_name(node)} is bypassed, and others use it")
        if node.get("mode") == MUTED:
            return
        if node["type"] == PRIMITIVE:
            values = node.get("widgets_values") or ()
            if not isinstance(values, list) or not values:
                _refuse(f"{_name(node)} has no value")
            yield name, values[0]
            return
        if node["type"] != REROUTE:
            yield name, [str(source), output]
            return
        link = next((given.get("link") for given in node.get("inputs") or ()), None)


def _nodes(graph: Graph) -> list[Node]:
    try:
        nodes: list[dict[str, Any]] = parse(graph["nodes"], list[dict[str, Any]], "nodes")
        for node in nodes:
            parse(node.get("type"), str, "type")
            parse(node.get("id"), int, "id")
            parse(node.get("inputs") or [], list[dict[str, Any]], "inputs")
    except BadJson as error:
        raise ConfigError(f"The workflow is damaged: {error}") from error
    return list(nodes)


def _active(graph: Graph) -> list[Node]:
    return [node for node in _nodes(graph) if node.get("mode") not in (MUTED, BYPASSED)]


def _links(graph: Graph) -> Iterator[tuple[Any, Source]]:
    for link in graph["links"] or ():
        if isinstance(link, dict):
            yield link.get("id"), (link.get("origin_id"), link.get("origin_slot"))  # type: ignore[misc]
        elif isinstance(link, list) and len(link) >= 3:
            yield link[0], (link[1], link[2])


def _name(node: Node) -> str:
    return f"{node.get('title') or node['type']} (node {node['id']})"


def _refuse(reason: str) -> NoReturn:
    raise ConfigError(f"This workflow cannot be converted: {reason}. {EXPORT}")
