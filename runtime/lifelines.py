"""Connections by which the processes of a run notice at once that one of them has ended.

The system closes the connections of a process that ends, however it ends. Without them a dead
process is noticed where a computation waits for it, or by its missing signs of life: cluster.py.
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable

TOKEN_BYTES = 16
SECONDS = 10  # To connect.


def connect(
    host: str, is_first: bool, exchange: Callable[[str], list[str]], lost: Callable
) -> None:
    """Connects process 0 with each other process; all have to call this.

    `host` is that of process 0, if it is known. `exchange` returns what each process says; `lost`
    is called in a thread when a connection ends. A process that can't be reached so is left to its
    signs of life.
    """
    listening = listen() if is_first else None
    own = ""
    if listening:
        threading.Thread(target=accept, args=[*listening, lost], daemon=True).start()
        server, token = listening
        own = f"{host or socket.gethostname()} {server.getsockname()[1]} {token}"
    said = exchange(own)[0]
    if listening or not said:
        return
    with contextlib.suppress(OSError):
        host, port, token = said.split()
        line = socket.create_connection((host, int(port)), timeout=SECONDS)
        line.sendall(token.encode())
        threading.Thread(target=hold, args=[line, lost], daemon=True).start()


def listen() -> tuple[socket.socket, str] | None:
    """Returns a socket, and the token that the others begin with; None where there can't be one."""
    try:
        return socket.create_server(("", 0)), secrets.token_hex(TOKEN_BYTES)
    except OSError:
        return None


def accept(server: socket.socket, token: str, lost: Callable) -> None:
    """Waits for the others; whoever does not say the token is sent away."""
    while True:
        line, _ = server.accept()
        with contextlib.suppress(OSError):
            line.settimeout(SECONDS)
            if secrets.compare_digest(line.recv(2 * TOKEN_BYTES), token.encode()):
                threading.Thread(target=hold, args=[line, lost], daemon=True).start()
            else:
                line.close()


def hold(line: socket.socket, lost: Callable) -> None:
    """Waits until the other side ends: nothing is said on a line."""
    line.settimeout(None)
    with contextlib.suppress(OSError):  # A reset is an end, too.
        line.recv(1)
    lost()
