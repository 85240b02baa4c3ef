"""`remote` without a ComfyUI: addresses, keys, other hosts, and workflows that cannot be converted."""

from __future__ import annotations

import copy
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.workflow import DEMO
from sidestep_cli.remote import graph
from sidestep_cli.remote.credentials import KEY, address, credentials
from sidestep_cli.remote.server import RemoteError, Server, Unreachable, require_comfyui
from sidestep_core.errors import ConfigError

from .conftest import Run

CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""Of localhost, signed by itself, with its key."""
SECRET = "open-sesame-31"
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def host(answer: Callable[[http.server.BaseHTTPRequestHandler], Answer], *, tls: bool = False) -> Iterator[str]:
    """Serve on this computer, and yield the address."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, headers, body = answer(self)
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if tls else ''}://localhost:{server.server_address[1]}"
        server.shutdown()


def stats(_: object) -> Answer:
    return 200, {"Content-Type": "application/json"}, b'{"system": {"comfyui_version": "0.30.0"}, "x": [Infinity, 1]}'


# Addresses and keys


@pytest.mark.parametrize(("given", "expected"), [
    ("127.0.0.1:8188", "http://127.0.0.1:8188"), ("localhost:8188/", "http://localhost:8188"),
    ("[::1]:8188", "http://[::1]:8188"), ("https://example.org/comfy/", "https://example.org/comfy"),
    ("http://10.0.0.7:8188", "http://10.0.0.7:8188")])
def test_address_is_completed(given: str, expected: str) -> None:
    assert address(given) == expected


@pytest.mark.parametrize("given", ["", "example.org", "ftp://example.org", "https://", "http://a:99999", "http://[bad",
                                   "localhosted.example:1"])
def test_wrong_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="is no address. Give one such as https://"):
        address(given)


@pytest.mark.parametrize("given", [f"https://me:{SECRET}@example.org", f"https://example.org/?token={SECRET}",
                                   f"https://{SECRET}@[bad", f"https://example.org#{SECRET}", f"me:{SECRET}@127.0.0.1"])
def test_key_in_address_is_not_shown(given: str) -> None:
    with pytest.raises(ConfigError, match="--host takes the address alone") as caught:
        address(given)
    assert SECRET not in str(caught.value)


def test_key_becomes_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, f"me:{SECRET}\n")
    found = {kind: dict(credentials(kind, "https://example.org").headers) for kind in ("bearer", "basic", "X-Key")}
    assert found == {"bearer": {"Authorization": f"Bearer me:{SECRET}"}, "X-Key": {"X-Key": f"me:{SECRET}"},
                     "basic": {"Authorization": "Basic bWU6b3Blbi1zZXNhbWUtMzE="}}
    assert credentials(None, "http://example.org").headers == ()
    for kind in found:
        assert SECRET not in repr(Server("https://example.org", credentials(kind, "https://example.org")))
    assert credentials("basic", "https://example.org").hide(f"{SECRET} bWU6b3Blbi1zZXNhbWUtMzE=") == "*** ***"


@pytest.mark.parametrize(("kind", "url", "key", "message"), [
    ("bearer", "http://example.org", SECRET, "not sent over http://"),
    ("basic", "https://example.org", SECRET, "is name:password"),
    ("bearer", "https://example.org", "", "needs a key: set the environment variable SIDE_STEP_KEY"),
    ("bearer", "https://example.org", f"{SECRET}\r\nHost: other", "such as a line break"),
    (f"Bearer {SECRET}", "https://example.org", SECRET, "takes bearer, basic, or the name of a header")])
def test_unsafe_key_is_refused(kind: str, url: str, key: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, key)
    with pytest.raises(ConfigError, match=message) as caught:
        credentials(kind, url)
    assert SECRET not in str(caught.value)


# Other hosts


def test_comfyui_is_recognised() -> None:
    with host(stats) as url:
        assert require_comfyui(Server(url)) == "0.30.0"


@pytest.mark.parametrize(("answer", "message"), [
    ((200, {}, b"<html><b>Welcome</b> to nginx"), "answers, but not as ComfyUI does: 'Welcome to nginx'"),
    ((200, {}, b"{}"), "answers, but is no ComfyUI. Check --host"),
    ((200, {}, b""), "answers, but is no ComfyUI"),
    ((404, {}, b"<script>x</script>no such page"), "answers 404: no such page"),
    ((302, {"Location": f"https://login.example/{SECRET}"}, b""), "sends requests on to https://login.example. If"),
    ((403, {}, b""), "does not accept the key .403."),
    ((418, {}, f"you sent {SECRET}".encode()), r"answers 418: you sent \*\*\*")])
def test_other_host_is_told(answer: Answer, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with host(lambda _: answer) as url, pytest.raises(RemoteError, match=message) as caught:
        require_comfyui(Server(url, credentials("bearer", url)))
    assert not isinstance(caught.value, Unreachable)
    assert SECRET not in str(caught.value)


def test_redirect_takes_no_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    asked: list[str] = []

    def other(request: http.server.BaseHTTPRequestHandler) -> Answer:
        asked.append(str(request.headers))
        return stats(request)

    with host(other) as target, host(lambda _: (302, {"Location": f"{target}/system_stats"}, b"")) as url:
        with pytest.raises(RemoteError, match="sends requests on"):
            require_comfyui(Server(url, credentials("bearer", url)))
    assert asked == []


@pytest.mark.parametrize("length", ["100", "2000000"])
def test_cut_answer_is_asked_for_again(length: str) -> None:
    with host(lambda _: (200, {"Content-Length": length}, b'{"system":')) as url:
        with pytest.raises(Unreachable, match="ended the connection within an answer"):
            require_comfyui(Server(url))


@pytest.mark.parametrize("code", [502, 503, 504])
def test_starting_host_is_asked_again(code: int) -> None:
    with host(lambda _: (code, {}, b"")) as url, pytest.raises(Unreachable, match="not running, or still starting"):
        require_comfyui(Server(url))


def test_certificate_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    with host(stats, tls=True) as url:
        with pytest.raises(RemoteError, match="this host .self.signed certificate.*nothing was sent"):
            require_comfyui(Server(url))
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert require_comfyui(Server(url)) == "0.30.0"
        with pytest.raises(RemoteError, match="does not prove that it is this host .*127.0.0.1"):
            require_comfyui(Server(url.replace("localhost", "127.0.0.1")))
    with host(stats) as url, pytest.raises(RemoteError, match="does not speak TLS"):
        require_comfyui(Server(url.replace("http:", "https:")))


def test_nobody_there_is_told(run: Run) -> None:
    ended = run("remote", DEMO, "--host", "http://127.0.0.1:9")
    assert ended.code == 1
    assert "http://127.0.0.1:9 cannot be reached" in ended.err
    assert "address, port or tunnel" in ended.err


def test_proxy_is_not_asked_for_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with host(stats) as url:
        assert require_comfyui(Server(url)) == "0.30.0"


def test_wrong_change_is_refused(run: Run) -> None:
    for change in ("4.max_steps", "max_steps=3", ".x=1", "4.=1"):
        ended = run("remote", DEMO, "--set", change)
        assert ended.code == 2
        assert "is not NODE.INPUT=VALUE" in ended.err


# Workflows of the page


def widget(kind: Any, **options: Any) -> list[Any]:
    return [kind, options]


SPECS: dict[str, Any] = {
    "Load": {"input": {"required": {"model": [["a", "b"], {}], "seed": widget("INT")},
                       "optional": {"extra": widget("FLOAT", default=0.5), "image": widget("IMAGE")}},
             "input_order": {"required": ["model", "seed"], "optional": ["image", "extra"]}},
    "Save": {"input": {"required": {"images": widget("IMAGE"), "text": widget("STRING", dynamicPrompts=True)}}},
    "Dynamic": {"input": {"required": {"x": widget("COMFY_DYNAMICCOMBO_V3")}}},
}
GRAPH: dict[str, Any] = {
    "nodes": [
        {"id": 1, "type": "Load", "inputs": [], "widgets_values": ["b", 7, "randomize", 1.5]},
        {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 10}]},
        {"id": 3, "type": "Save", "inputs": [{"name": "images", "link": 11}, {
            "name": "text", "link": None, "widget": {"name": "text"}}], "widgets_values": ["hello"]},
        {"id": 4, "type": "Note", "widgets_values": ["read me"]}],
    "links": [[10, 1, 0, 2, 0, "IMAGE"], {"id": 11, "origin_id": 2, "origin_slot": 0, "target_id": 3}]}
PROMPT = {"1": {"class_type": "Load", "inputs": {"model": "b", "seed": 7, "extra": 1.5}},
          "3": {"class_type": "Save", "inputs": {"text": "hello", "images": ["1", 0]}}}


def changed(change: Callable[[dict[int, dict[str, Any]], dict[str, Any]], object]) -> dict[str, Any]:
    """The graph with a change of its nodes, by their ids."""
    made = copy.deepcopy(GRAPH)
    change({node["id"]: node for node in made["nodes"]}, made)
    return made


def test_graph_is_converted() -> None:
    assert graph.classes(GRAPH) == ["Load", "Save"]
    assert graph.prompt_of(GRAPH, SPECS) == PROMPT


def test_older_graph_gets_defaults() -> None:
    found = graph.prompt_of(changed(lambda nodes, _: nodes[1].update(widgets_values=["a"])), SPECS)
    assert found["1"]["inputs"] == {"model": "a", "extra": 0.5}


def test_constant_of_the_page_is_taken() -> None:
    def change(nodes: dict[int, dict[str, Any]], made: dict[str, Any]) -> None:
        made["nodes"].append({"id": 5, "type": "PrimitiveNode", "widgets_values": ["constant", "fixed"]})
        made["links"].append([12, 5, 0, 3, 1, "STRING"])
        nodes[3]["inputs"][1]["link"] = 12

    assert graph.prompt_of(changed(change), SPECS)["3"]["inputs"] == {"images": ["1", 0], "text": "constant"}


def test_muted_node_is_left_out() -> None:
    found = graph.prompt_of(changed(lambda nodes, _: nodes[1].update(mode=2)), SPECS)
    assert found == {"3": {"class_type": "Save", "inputs": {"text": "hello"}}}
    assert graph.prompt_of(changed(lambda nodes, _: nodes[3].update(mode=4)), SPECS) == {"1": PROMPT["1"]}


@pytest.mark.parametrize(("change", "reason"), [
    (lambda nodes, _: nodes[1].update(mode=4), "Load .node 1. is bypassed, and others use it"),
    (lambda nodes, _: nodes[1].update(widgets_values=["b", 7, "randomize", 1.5, 3]), "has 5 values, the server's"),
    (lambda nodes, _: nodes[1].update(widgets_values=["b", "x", "randomize", 1.5]), "has 'x' as seed, which does not"),
    (lambda nodes, _: nodes[1].update(widgets_values=["b", 7, 1.5]), "has 1.5 where a seed's control is expected"),
    (lambda nodes, _: nodes[1].update(inputs=[{"name": "seed", "widget": {}}, {"name": "model", "widget": {}}]),
     "its inputs are in another order"),
    (lambda nodes, _: nodes[3].update(widgets_values=["{a|b} c"]), "choices.in braces"),
    (lambda nodes, _: nodes[2].update(inputs=[{"name": "", "link": 99}]), "a link to images leads nowhere"),
    (lambda nodes, _: nodes[2].update(inputs=[{"name": "", "link": 11}]), "a link to images leads nowhere"),
    (lambda nodes, made: made["links"].__setitem__(0, [10, 77, 0, 2, 0, "IMAGE"]), "from a node that is not there"),
    (lambda nodes, _: nodes[1].update(type="Dynamic"), "inputs that depend on its values .x."),
    (lambda nodes, made: made.update(nodes=[nodes[4]]), "no node to run"),
])  # fmt: skip
def test_uncertain_graph_is_refused(change: Callable[..., object], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be converted: .*{reason}.*Workflow > Export .API."):
        graph.prompt_of(changed(change), SPECS)


@pytest.mark.parametrize("change", [
    lambda nodes, made: made.update(definitions={"subgraphs": [{"id": "Load"}]}),
    lambda nodes, made: (nodes[1].update(type="workflow>mine"), made.update(extra={"groupNodes": {"mine": {}}}))])
def test_graph_in_a_graph_is_refused(change: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match="subgraph.*Workflow > Export .API."):
        graph.classes(changed(change))


@pytest.mark.parametrize("content", ["[]", '{"nodes": [7], "links": []}', '{"a": 1}', "{}", "x", '{"nodes": []}'])
def test_no_workflow_is_refused(run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content, encoding="utf-8")
    with host(stats) as url:
        ended = run("remote", tmp_path / "w.json", "--host", url)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert any(words in ended.err for words in ("Export (API)", "must be an object", "not valid JSON", "is damaged"))
