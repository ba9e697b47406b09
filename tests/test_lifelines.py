"""Connections between processes: an end is noticed, a stranger is not mistaken for a process."""

import socket
import subprocess
import sys
import threading

from runtime import lifelines


class Lost(threading.Event):
    """Is set when a connection has ended."""

    def __call__(self):
        self.set()


def first_said():
    """Returns what process 0 has said, and what is set when it loses one."""
    said, lost = [], Lost()

    def exchange(own):
        said.append(own)
        return [own]

    lifelines.connect("127.0.0.1", True, exchange, lost)
    return said[0], lost


# A process that connects, says so, and waits to be killed.
OTHER = """
import sys, time
from runtime import lifelines
lifelines.connect("", False, lambda own: [sys.argv[1]], lambda: print("lost", flush=True))
print("connected", flush=True)
time.sleep(60)
"""


def other(said):
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, said], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "connected\n"
    return process


def test_a_killed_process_is_noticed_and_so_is_the_first():
    said, lost = first_said()
    one = other(said)
    assert not lost.wait(0.3)
    one.kill()
    assert lost.wait(5)
    one.wait()
    first = subprocess.Popen(
        [sys.executable, "-c", FIRST], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    two = other(first.stdout.readline().strip())
    first.kill()
    assert two.stdout.readline() == "lost\n"
    two.kill()
    for process in (first, two):
        process.wait()


FIRST = """
import sys
from runtime import lifelines
lifelines.connect("127.0.0.1", True, lambda own: print(own, flush=True) or [own], lambda: None)
sys.stdin.read()
"""


def test_a_stranger_is_sent_away():
    said, lost = first_said()
    host, port, token = said.split()
    assert len(token) == 32
    for words in (b"GET / HTTP/1.1", token[:-1].encode() + b"!", b""):
        with socket.create_connection((host, int(port)), timeout=5) as stranger:
            stranger.sendall(words)
            if words:
                assert stranger.recv(1) == b""  # Closed by the other side.
    assert not lost.wait(0.3)
    known = socket.create_connection((host, int(port)))
    known.sendall(token.encode())
    known.close()
    assert lost.wait(5)


def test_one_that_can_not_connect_goes_on():
    lost = Lost()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for said in (f"127.0.0.1 {port} token", "no.such.host.invalid 1 token", ""):
        lifelines.connect("", False, lambda own, said=said: [said], lost)
    assert not lost.wait(0.3)
