"""Objects below one URL: S3-compatible storage (s3://bucket/prefix) or a folder (file:///folder), through obstore.

Only what every S3 clone can do is used: whole objects put and got, listing, deleting, and a conditional create where it
is honoured. Credentials come from where the AWS tools look for them and go nowhere else: a message names the URL
without them, and of a server's answer it gives the status and the error code only, for the rest may quote a key.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import LocalStore, S3Store

from backdrop.disk_errors import disk_errors
from backdrop.durable_files import sync_all
from backdrop.errors import CorruptStore, StorageUnreachable, UserError
from backdrop.stores.sharing.s3_profile import SECRETS, settings_of_profile

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig, S3Config

REQUESTS_IN_FLIGHT = 8
CHUNK_BYTES = 8 << 20
CHUNKS_IN_FLIGHT = 2  # of one object: with all requests in flight this bounds memory to some 200 MB
DIGEST = "sha256"  # the metadata field of an object that holds its SHA-256, hex

# A connection that is refused is given up after half a minute, one that stalls after a few. A request as a whole has no
# limit, for objects may be large. But obstore counts the sending of a body as waiting for the answer, hence the longer
# time for uploads: with all requests in flight it takes a line of 4 Mbit/s.
RETRY: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=2),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
CLIENT: "ClientConfig" = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "24h"}
UPLOAD_TIMEOUT = "5m"

ALLOWED_URLS = "allowed are s3://BUCKET/PREFIX and file:///FOLDER"
HINTS = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "401": "credentials are missing or wrong; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "403": "credentials are missing, wrong, or lack the right to do this; set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}

# obstore keeps threads of its own, which a fork leaves behind: a request in a forked process would wait for ever.
_process: int | None = None

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ObjectStorage:
    """The objects below one URL, by name; safe to use from several threads, not after a fork.

    Args:
        url: s3://bucket/prefix or file:///folder. For S3 the endpoint is that of AWS_ENDPOINT_URL, if it is set.
        is_upload: objects will be put; a folder of a file:// URL is made.

    Raises:
        UserError: from the constructor, for a URL that is not allowed; from every method, when the storage refuses.
        StorageUnreachable: it gives no answer, or a folder is not there.
    """

    def __init__(self, url: str, *, is_upload: bool = False) -> None:
        self.url = without_credentials(url)
        parts = _split(url)
        _claim_process()
        self.folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        with self._errors():
            if self.folder is None:
                self._store: S3Store | LocalStore = _s3_store(parts.netloc, parts.path.strip("/"), is_upload)
            else:
                if is_upload:
                    self.folder.mkdir(parents=True, exist_ok=True)
                if not self.folder.is_dir():
                    raise StorageUnreachable(f"there is no store at {self.url}: no such folder; correct the URL")
                self._store = LocalStore(self.folder)

    def put(self, name: str, data: bytes) -> None:
        """Put an object, over one that is there."""
        with self._errors():
            obstore.put(self._store, name, data, use_multipart=False, attributes=self._attributes(data))

    def put_file(self, name: str, file: Path, num_bytes: int, sha256: str) -> None:
        """Put a file, in bounded memory, checking it while it is read.

        Raises:
            CorruptStore: the file is missing, or not of that size and digest; no object then appears.
        """
        chunks = _checked_chunks(_read_chunks(file), num_bytes, sha256, str(file))
        attributes = None if self.folder else {DIGEST: sha256}
        with self._errors():
            if num_bytes <= CHUNK_BYTES:
                obstore.put(self._store, name, b"".join(chunks), use_multipart=False, attributes=attributes)
                return
            obstore.put(
                self._store,
                name,
                chunks,
                attributes=attributes,
                use_multipart=True,
                chunk_size=CHUNK_BYTES,
                max_concurrency=CHUNKS_IN_FLIGHT,
            )

    def create(self, name: str, data: bytes) -> bool | None:
        """Put an object unless there is one.

        Returns:
            Whether it was put; None when the storage says that it cannot do this. False may also follow from a request
            that was repeated after its answer was lost: look what is there.
        """
        with self._errors():
            try:
                obstore.put(self._store, name, data, mode="create", attributes=self._attributes(data))
            except AlreadyExistsError:
                return False
            except (NotSupportedError, NotImplementedError):
                return None
            except BaseError as error:
                if "501" in _status(str(error)):
                    return None
                raise
        return True

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Return an object's bytes; None when there is no such object.

        Raises:
            CorruptStore: it is larger than `max_bytes`.
        """
        with self._errors():
            try:
                result = obstore.get(self._store, name)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None
            data = bytearray()
            for chunk in [] if result.meta["size"] > max_bytes else result.stream(CHUNK_BYTES):
                data += chunk
            if max(result.meta["size"], len(data)) > max_bytes:
                raise CorruptStore(f"{name} at {self.url} has more than {max_bytes} bytes")
        return bytes(data)

    def download(self, name: str, file: Path, num_bytes: int, sha256: str, offset: int | None = None) -> None:
        """Write an object to a new file, in bounded memory, checking it on the way; it is not synced.

        Args: offset: of the first of `num_bytes` in the object; None = they are all of it.
        Raises:
            CorruptStore: the object is missing, or not of that size and digest.
        """
        is_whole = offset is None
        span: GetOptions | None = None if offset is None else {"range": (offset, offset + num_bytes)}
        with self._errors():
            try:
                result = obstore.get(self._store, name, options=span)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise CorruptStore(f"{name} is missing at {self.url}") from None
            except BaseError as error:
                if span and ("InvalidRange" in str(error) or "416" in _status(str(error))):
                    raise CorruptStore(f"{name} at {self.url} ends before byte {offset}") from None
                raise
            what = f"{name} at {self.url}" if is_whole else f"byte {offset} of {name} at {self.url}"
            if result.range[1] - result.range[0] != num_bytes or (is_whole and result.meta["size"] != num_bytes):
                stream: Iterable[bytes] = [b""]
            elif num_bytes <= CHUNK_BYTES:
                stream = [bytes(result.bytes())]
            else:
                stream = map(bytes, result.stream(CHUNK_BYTES))
            chunks = _checked_chunks(stream, num_bytes, sha256, what)
            first = next(chunks, b"")
        with open(file, "xb") as out:
            out.write(first)
            while chunk := self._next(chunks):
                out.write(chunk)

    def sizes(self) -> dict[str, int]:
        """List all objects: name -> bytes."""
        with self._errors():
            stream = obstore.list(self._store, chunk_size=1000)
            return {entry["path"]: entry["size"] for chunk in stream for entry in chunk}

    def digest(self, name: str) -> str | None:
        """SHA-256 (hex) of an object's content, as recorded when it was put; of a folder's file, as it is now."""
        with self._errors():
            try:
                if self.folder is None:
                    return obstore.get(self._store, name, options={"head": True}).attributes.get(DIGEST)
                with open(self.folder / name, "rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._errors():
            try:
                obstore.delete(self._store, [name])
            except FileNotFoundError:
                return

    def make_durable(self) -> None:
        """Wait until all that was put survives a power cut; object storage promises that by itself."""
        if self.folder:
            with self._errors():
                sync_all(self.folder)

    def _attributes(self, data: bytes) -> dict[str, str] | None:
        return None if self.folder else {DIGEST: hashlib.sha256(data).hexdigest()}

    def _next(self, chunks: Iterator[bytes]) -> bytes:
        """The next chunk off the network; errors of writing it to disk are the caller's."""
        with self._errors():
            return next(chunks, b"")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what obstore raises into a message without credentials; `from None`, for its own text may hold some."""
        assert is_usable(), "object storage is out of reach after a fork"
        try:
            yield
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            if self.folder is not None:
                with disk_errors(self.folder, "give another place, with another file:///FOLDER"):
                    raise _disk_error(error) from None
            is_answer = _status(str(error))[:1] in ("3", "4")
            raise (UserError if is_answer else StorageUnreachable)(f"{self.url}: {_reason(error)}") from None


def is_usable() -> bool:
    """Whether requests can be made in this process; not so after a fork of one that made some."""
    return _process in (None, os.getpid())


def _claim_process() -> None:
    global _process
    _process = _process or os.getpid()


def concurrently(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Map in as many threads as requests may be in flight; the first error ends it, what has not begun is dropped."""
    with ThreadPoolExecutor(REQUESTS_IN_FLIGHT) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def without_credentials(text: str) -> str:
    """Remove user:password@ of URLs, queries that sign, and the secrets of the environment from a text."""
    text = re.sub(r"(?<=//)[^/\s]*@", "", text)
    text = re.sub(r"\?\S*", "", text)
    for name in SECRETS:
        if len(os.environ.get(name, "")) >= 8:  # a shorter value is no secret, and may be part of any word
            text = text.replace(os.environ[name], "***")
    return text


def _split(url: str):
    shown = without_credentials(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UserError(f"{shown} is no URL; {ALLOWED_URLS}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"{shown}: a URL must hold no credentials, '?' or '#'; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE"
        )
    names = unquote(parts.path).strip("/").split("/")
    is_s3 = parts.scheme == "s3" and parts.netloc
    is_file = parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/")
    if not (is_s3 or is_file) or any(name in ("", ".", "..") for name in names):
        raise UserError(f"{shown} cannot be published to or read from; {ALLOWED_URLS}")
    return parts


def _s3_store(bucket: str, prefix: str, is_upload: bool) -> S3Store:
    config = settings_of_profile()
    endpoints = [os.environ.get(f"AWS_ENDPOINT{name}") for name in ("_URL_S3", "_URL", "")]
    endpoint = config.get("endpoint") or next(filter(None, endpoints), "")
    # Whoever sets an endpoint without TLS means it; nothing else is ever sent in the clear.
    client: ClientConfig = {**CLIENT, "allow_http": endpoint.startswith("http://")}
    if is_upload:
        client["read_timeout"] = UPLOAD_TIMEOUT
    if endpoint:
        config["endpoint"] = endpoint
    return S3Store(bucket, prefix=prefix, config=cast("S3Config", config), client_options=client, retry_config=RETRY)


def _read_chunks(file: Path) -> Iterator[bytes]:
    try:
        with open(file, "rb") as handle:
            while chunk := handle.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise CorruptStore(f"{file} cannot be read: {error.strerror}") from error


def _checked_chunks(chunks: Iterable[bytes], num_bytes: int, sha256: str, what: str) -> Iterator[bytes]:
    """Pass chunks on; raises before the last one is passed when all together are not what they should be."""
    digest, left, held = hashlib.sha256(), num_bytes, b""
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        digest.update(chunk)
        if held:
            yield held
        held = chunk
    if left or digest.hexdigest() != sha256:
        raise CorruptStore(f"{what} does not match the digest and size ({num_bytes} bytes) that the store states of it")
    if held:
        yield held


def _status(message: str) -> str:
    """The HTTP status in obstore's message, "404 Not Found"; "" where there is none."""
    found = re.search(r"status code: (\d{3}[A-Za-z -]*)", message)
    return found.group(1).strip() if found else ""


def _disk_error(error: Exception) -> Exception:
    """The disk's refusal of a folder, which obstore gives as a text that ends in "(os error 28)"."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if isinstance(error, OSError) and error.errno:
        return error
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else error


def _reason(error: Exception) -> str:
    """What went wrong, in one line that quotes nothing of a server's answer but its status and error code."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    status = _status(message)
    code = next(iter(re.findall(r"<Code>(\w{1,64})</Code>", message)), "")
    hint = HINTS.get(code) or HINTS.get(status[:3])
    if status:
        return f"the server answers {status}" + (f" ({code})" if code else "") + (f": {hint}" if hint else "")
    # Above this length, and below the first line, obstore prints its own structures.
    line = without_credentials(message.partition("\n")[0].partition("<?xml")[0])[:300]
    return f"{line}. What was transferred is kept: give the same command again, it resumes."
