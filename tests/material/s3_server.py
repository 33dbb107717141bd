"""An S3 server on the loopback interface for tests (moto, in a process of its own), and a cable to it that breaks."""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

ACCESS_KEY = "AKIATESTONLYNOTAKEY0"
SECRET_KEY = "a-secret-that-must-appear-nowhere"
BUCKET = "shared"
START_SECONDS = 60
# For `stores.sharing.object_storage.RETRY`, where a test is about a network that does not come back.
FEW_RETRIES = {
    "max_retries": 1,
    "retry_timeout": timedelta(seconds=5),
    "backoff": {"init_backoff": timedelta(milliseconds=20), "max_backoff": timedelta(milliseconds=50), "base": 2},
}


def environment(port: int) -> dict[str, str]:
    """What a user of a server at this port has in the environment."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
    }


class S3Server:
    """A running server with one empty bucket; it keeps objects in memory, so they go with it."""

    def __init__(self, log_path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = log_path
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except OSError:
            return False


class Cable:
    """A port that leads to the server's until it has carried so many bytes towards it, or back."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.repair()
        threading.Thread(target=self._accept, daemon=True).start()

    def repair(self) -> None:
        """Carry everything from now on."""
        self._bytes_left, self._at_the_end, self._is_cut = float("inf"), self.cut, False
        self._flows.set()

    def cut_after(self, num_bytes: int, at_the_end: Callable[[], None] | None = None) -> None:
        """Cut it, or do something else once, when so many bytes more have passed."""
        self._bytes_left, self._at_the_end = num_bytes, at_the_end or self.cut

    def stall(self) -> None:
        """Carry nothing more, and keep all connections."""
        self._flows.clear()

    def reset(self) -> None:
        """Reset all connections, as a firewall does, and refuse new ones."""
        for end in tuple(self._sockets):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut(socket.SHUT_RD)

    def cut(self, directions: int = socket.SHUT_RDWR) -> None:
        """Break all connections and refuse new ones."""
        self._is_cut = True
        for end in tuple(self._sockets):
            with suppress(OSError):  # the other end may have gone by itself
                end.shutdown(directions)
            end.close()
            self._sockets.remove(end)

    def close(self) -> None:
        """Pull it out."""
        self.cut()
        self._flows.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            if self._is_cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                with self._lock:
                    was_left, self._bytes_left = self._bytes_left, self._bytes_left - len(data)
                    if was_left > 0 >= self._bytes_left:
                        self._at_the_end()
                self._flows.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one of the ends is closed
