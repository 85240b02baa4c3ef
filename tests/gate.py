"""A door before a server that can be shut, cut connections after some bytes, and ask for a header: real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\nConnection: close\r\n\r\nwho? %s"


@dataclass
class Gate:
    """Port on this computer, and what happens to those who come to it."""

    target: int
    """Port of the server."""
    port: int = 0
    header: bytes = b""
    """Header that a request needs, with its value; empty: none."""
    cuts: list[tuple[bytes, int]] = field(default_factory=list)
    """(beginning of a request, bytes of it, or of the answer if negative, after which its connection ends), each for
    one request."""
    shut: bool = False
    requests: list[bytes] = field(default_factory=list)
    """First line of every request."""

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.shut:
                return
            head = b""
            while b"\r\n\r\n" not in head and (block := client.recv(65536)):
                head += block
            self.requests.append(head.partition(b"\r\n")[0])
            if self.header and self.header.lower() not in head.partition(b"\r\n\r\n")[0].lower():
                client.sendall(UNAUTHORIZED % self.header[:1])
                return
            cut = next((cut for cut in self.cuts if head.startswith(cut[0])), None)
            if cut is not None:
                self.cuts.remove(cut)
            sends = cut[1] if cut and cut[1] >= 0 else None
            answers = -cut[1] if cut and cut[1] < 0 else None
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                server.sendall(head)
                back = threading.Thread(target=_copy, args=(server, client, answers), daemon=True)
                back.start()
                if _copy(client, server, None if sends is None else max(0, sends - len(head))):
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)
                    return
                back.join()


def _copy(source: socket.socket, sink: socket.socket, most: int | None) -> bool:
    """Copy until the end; return True if `most` bytes were reached first."""
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            if most is not None and len(block) > most:
                sink.sendall(block[:most])
                sink.shutdown(socket.SHUT_RDWR)
                source.shutdown(socket.SHUT_RDWR)
                return True
            most = None if most is None else most - len(block)
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)
    return False


@contextlib.contextmanager
def gate(target: int, header: bytes = b"") -> Iterator[Gate]:
    """Open a gate before a port of this computer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Gate(target=target, port=listener.getsockname()[1], header=header)
        thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
        thread.start()
        yield made
