"""The page served to this machine's browsers, its pictures drawn when they are looked at: nothing is written."""

import functools
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from backdrop.errors import UserError
from backdrop.pipeline.gallery import content
from backdrop.pipeline.gallery.doubt import Doubts, facts_of
from backdrop.pipeline.gallery.folder import PAGE, page_files
from backdrop.pipeline.gallery.row_pictures import KINDS, RowPictures
from backdrop.pipeline.gallery.source_images import SourceImages
from backdrop.stores.format.reader import Store

HOST = "127.0.0.1"
_PICTURE = re.compile(rf"/pictures/([0-9]{{1,9}})/([0-9]{{1,12}})-({'|'.join(KINDS)})\.jpg")
_ROWS = re.compile(r"/data/rows-([0-9]{5,12})\.js")
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_POLICY = "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'"
# Drawn rows kept: a few pages' worth, some 20 MB.
_KEPT_ROWS = 512

Answer = tuple[str, bytes]


class GalleryServer(ThreadingHTTPServer):
    """Serves one store. `serve_forever` until `shutdown`; `url` is where.

    Args:
        store: an open store.
        images: what was found of its images.
        port: 0 = any free one.
        other: as `write_gallery` takes it.

    Raises:
        UserError: the port is taken or may not be used.
    """

    daemon_threads = True

    def __init__(self, store: Store, images: SourceImages, port: int = 0, *, other: Store | None = None) -> None:
        self._store, self._images = store, images
        self._doubts = Doubts(facts_of(store, self.rows, other))
        self._pictures = RowPictures(store, images)
        self._layout = content.served_layout()
        self._places = self._layout.places(self._doubts)
        self._files = page_files()
        # A browser asks for a row's four pictures at once: they are drawn together, once.
        self._drawing = threading.Lock()
        self._draw = functools.lru_cache(maxsize=_KEPT_ROWS)(self._pictures.draw)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(f"port {port} of {HOST} cannot be had ({error.strerror}); give another --port") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @functools.cached_property
    def rows(self):
        """The rows on the page: all that are built."""
        return content.built_rows(self._store)

    def answer(self, path: str) -> Answer | None:
        """What lies at a path of the page: (type, content), or None.

        Raises:
            UserError: the store is damaged there.
        """
        name = PAGE if path == "/" else path[1:]
        if name in self._files:
            return _TYPES[name.rpartition(".")[2]], self._files[name]
        if path == "/data/store.js":
            with self._drawing:
                script = content.store_script(self._store, self._images, self.rows, self._doubts, self._layout)
                return _TYPES["js"], script.encode()
        if (match := _ROWS.fullmatch(path)) and int(match[1]) < self._layout.num_chunks(self.rows):
            chunk = int(match[1])
            places = self._layout.of_chunk(self._places, chunk)
            script = content.rows_script(self._store, self.rows, places, chunk, self._expected, self._doubts)
            return _TYPES["js"], script.encode()
        if (match := _PICTURE.fullmatch(path)) and int(match[2]) < self._store.num_rows:
            return (
                self._picture(int(match[2]), match[3])
                if path[1:] == content.picture_path(int(match[2]), match[3])
                else None
            )
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong with a request; not that a browser hung up, as it does when its reader pages on."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def _expected(self, row: int) -> content.Drawn:
        return {}, self._pictures.expected(row)

    def _picture(self, row: int, kind: str) -> Answer:
        with self._drawing:
            jpegs, why_not = self._draw(row)
        if kind in jpegs:
            return "image/jpeg", jpegs[kind]
        return "image/svg+xml", _instead(why_not[kind])


def _instead(why: str) -> bytes:
    """A picture in place of one that was expected, and turned out not to be there when its row was drawn."""
    text = "another image than the store's" if "another image" in why else "cannot be decoded"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240"><rect width="240" height="240" fill="#ddd"/>'
        f'<text x="120" y="125" font-family="sans-serif" font-size="15" text-anchor="middle" fill="#222">{text}</text>'
        "</svg>"
    ).encode()


def serve_gallery(
    store: Store, images: SourceImages, port: int, say: Callable[[str], None], *, other: Store | None = None
) -> None:
    """Serve a store until Ctrl-C.

    Args: as `GalleryServer`. say: called with the URL once the server listens.
    Raises: UserError: the port cannot be had.
    """
    with GalleryServer(store, images, port, other=other) as server, suppress(KeyboardInterrupt):
        say(server.url)
        server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    server: GalleryServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        # A page elsewhere whose name was made to mean this machine must not read the store through a browser here.
        if self.headers.get("Host") not in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        ):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this server answers to 127.0.0.1 only\n")
            return
        try:
            answer = self.server.answer(self.path.partition("?")[0])
        except UserError as error:
            print(error, file=sys.stderr)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{error}\n".encode(errors="replace"))
            return
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here\n")
        else:
            self._send(HTTPStatus.OK, *answer)

    def _refuse(self) -> None:
        self.close_connection = True  # a body that was sent along is not read
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET\n")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        # The next store that is served may have the same address.
        self.send_header("Cache-Control", "no-store")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a line per picture would bury what matters."""
