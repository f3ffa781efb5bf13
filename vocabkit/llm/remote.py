"""Embedding tables on the Hugging Face hub: only their bytes are downloaded, once, into its cache.

By HTTP range requests (RFC 9110, section 14) through huggingface_hub. The matrix becomes a safetensors file on disk.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import huggingface_hub.errors
from huggingface_hub import (
    cached_assets_path,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    hf_raise_for_status,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.progress import Progress
from vocabkit.hub import HubId, what_the_hub_said, why_refused
from vocabkit.llm.embedding_names import embedding_name
from vocabkit.llm.language_model import LanguageModel, read_config
from vocabkit.llm.weight_files import (
    PREFIX,
    Header,
    Place,
    StoredRows,
    header_length,
    open_weights,
    parse_header,
    read_header,
    read_index,
    rows_at,
)

TransportError: type[Exception] = huggingface_hub.errors.HTTPError  # type: ignore[attr-defined]
"""The error of huggingface_hub's HTTP library (httpx) when a connection fails."""
_ATTEMPTS = 5
"""Attempts in a row that bring nothing, before giving up."""
_BUSY = (408, 429, 500, 502, 503, 504)
"""Answers worth another attempt."""
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WEIGHTS = (_SINGLE, _INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")


def open_hub(where: HubId, progress: Progress, wanted: str | None = None) -> tuple[LanguageModel, StoredRows, str]:
    """Open the embedding table of a hub repository, named `wanted` if given; also returns the name of what was read.

    From the weights in the Hugging Face cache if they are there; else its bytes alone are downloaded into vocabkit's
    part of that cache (`HF_ASSETS_CACHE`).

    Raises VocabkitError: no such repository or revision, no access, no safetensors weights, offline and not cached, or
    a connection that keeps breaking off.
    """
    repository, revision = where
    try:
        config = Path(hf_hub_download(repository, "config.json", revision=revision))
        model, commit = read_config(config), config.parent.name
        source = f"{repository}@{commit[:12]}"
        weights = _cached_weights(repository, commit, model, wanted)
        if weights is not None:
            return model, open_weights(weights, model, wanted), f"{source}/{weights.name}"
        folder = cached_assets_path("vocabkit", namespace=repository, subfolder=commit)
        return model, _downloaded(repository, commit, model, folder, progress, wanted), source
    except VocabkitError:
        raise
    except (OSError, ValueError, TransportError) as error:
        named = repository if revision is None else f"{repository}@{revision}"
        raise VocabkitError(f"{named}: {_reason(repository, what_the_hub_said(error))}") from error


def _cached_weights(repository: str, commit: str, model: LanguageModel, wanted: str | None) -> Path | None:
    """Return the weights file or its index if the file with the embedding table is in the cache."""

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(repository, name, revision=commit)
        return Path(found) if isinstance(found, str) else None

    for file in filter(None, map(cached, _WEIGHTS)):
        if file.suffix != ".json":
            return file
        shards = read_index(file)

        def shape_of(name: str, shards: dict[str, str] = shards) -> Sequence[int] | None:
            shard = cached(shards[name])
            return None if shard is None or shard.suffix != ".safetensors" else read_header(shard).shape_of(name)

        with suppress(VocabkitError):  # of which the hub may say more
            if cached(shards[embedding_name(shards, model, str(file), shape_of, wanted)]) is not None:
                return file
    return None


def _downloaded(
    repository: str, commit: str, model: LanguageModel, folder: Path, progress: Progress, wanted: str | None
) -> StoredRows:
    kept = "embeddings" if wanted is None else sha256(wanted.encode()).hexdigest()[:16]
    table = folder / f"{kept}.safetensors"
    if not is_whole(table):
        file, name, header = _remote(repository, commit, model, wanted)
        download_matrix(file, name, header.place_of(name), table, progress)
    header = read_header(table)
    return rows_at(table, header.place_of(header.names[0]))


def _remote(repository: str, commit: str, model: LanguageModel, wanted: str | None) -> tuple[RemoteFile, str, Header]:
    """Return the file that holds the table, the table's name, and the file's header."""
    header_of = cache(lambda name: _remote_header(RemoteFile(repository, commit, name)))
    try:
        index = Path(hf_hub_download(repository, _INDEX, revision=commit))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        header: Header = header_of(_SINGLE)
        name = embedding_name(header.names, model, f"{repository}/{_SINGLE}", header.shape_of, wanted)
        return RemoteFile(repository, commit, _SINGLE), name, header
    shards = read_index(index)
    name = embedding_name(
        shards, model, f"{repository}/{_INDEX}", lambda name: header_of(shards[name]).shape_of(name), wanted
    )
    return RemoteFile(repository, commit, shards[name]), name, header_of(shards[name])


def _remote_header(file: RemoteFile) -> Header:
    length = header_length(file.read(0, PREFIX), str(file))
    return parse_header(file.read(PREFIX, PREFIX + length), str(file))


def _reason(repository: str, error: Exception) -> str:
    match error:
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return (
                "can't reach the Hugging Face hub and it is not in the cache; check the network and HF_HUB_OFFLINE, or "
                "give the model's folder"
            )
        case EntryNotFoundError():
            return (
                "no config.json with model.safetensors in this repository; download what it has (`hf download`) and "
                "give the weights file"
            )
    if refusal := why_refused(repository, error):
        return refusal
    if isinstance(error, OSError):
        return f"can't keep the download ({error.strerror or quote(str(error), 120)})"
    return quote((str(error) or type(error).__name__).strip().splitlines()[0], 160)


def download_matrix(file: RemoteFile, name: str, place: Place, target: Path, progress: Progress) -> None:
    """Download the matrix `name`, at `place` in `file`, to `target`: whole or not at all.

    Bytes received before an interruption are kept beside it, and the next call resumes there. Processes that want the
    same matrix wait for each other.

    Args:
        progress: counts the bytes.

    Raises:
        OSError: the disk.
        Otherwise as `RemoteFile.fetch`.
    """
    size = place.stop - place.start
    head = _header(name, place)
    partial = target.with_suffix(".incomplete")
    with WeakFileLock(target.with_suffix(".lock")):
        if is_whole(target):
            return
        with partial.open("a+b") as into:
            into.seek(0)
            done = partial.stat().st_size - len(head)
            if into.read(len(head)) != head or done > size:
                into.truncate(0)
                into.write(head)
                done = 0

            def report(received: int) -> None:
                progress(f"embedding rows of {file.repository}", done + received, size)

            report(0)
            file.fetch(place.start + done, place.stop, into, report)
            into.flush()
            os.fsync(into.fileno())
        read_header(partial)
        partial.replace(target)


def is_whole(file: Path) -> bool:
    """Whether `file` exists and is as long as its header says."""
    try:
        return bool(read_header(file).names)
    except VocabkitError:
        return False


def _header(name: str, place: Place) -> bytes:
    entry = {"dtype": place.dtype, "shape": [place.rows, place.width], "data_offsets": [0, place.stop - place.start]}
    text = json.dumps({name: entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class RemoteFile:
    """A file of one commit of a hub repository."""

    repository: str
    commit: str
    name: str

    def __str__(self) -> str:
        return f"{self.repository}/{self.name}"

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`. Raises as `fetch` does."""
        buffer = io.BytesIO()
        self.fetch(start, stop, buffer)
        return buffer.getvalue()

    def fetch(
        self, start: int, stop: int, into: BinaryIO, progress: Callable[[int], None] = lambda received: None
    ) -> None:
        """Write bytes `start` to `stop` into `into`, resuming where a connection breaks off.

        Args:
            progress: called with the number of bytes received so far.

        Raises:
            HfHubHTTPError: the hub refuses.
            OfflineModeIsEnabled: offline mode.
            VocabkitError: the file is shorter, an unexpected answer, or the connection keeps breaking off.
        """
        at, idle = start, 0
        while at < stop:
            before, failure = at, "nothing more came"
            try:
                for chunk in self._stream(at, stop):
                    into.write(chunk)
                    at += len(chunk)
                    progress(at - start)
            except TransportError as error:
                if isinstance(error, HfHubHTTPError) and error.response.status_code not in _BUSY:
                    raise
                failure = str(error).strip() or type(error).__name__
            idle = 0 if at > before else idle + 1
            if idle == _ATTEMPTS:
                raise VocabkitError(
                    f"{self}: the connection broke off after {at - start} of {stop - start} bytes "
                    f"({quote(failure, 100)}); run again to resume there"
                )
            if at < stop:
                time.sleep(0.1 * 2**idle)

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield these bytes, as far as they arrive."""
        url, headers = self._locate(stop)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            skip, left = self._unwanted(response, start), stop - start
            for chunk in response.iter_bytes():  # unbuffered: a partial chunk would be lost with the connection
                wanted = chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                left -= len(wanted)
                if wanted:
                    yield wanted
                if not left:
                    return

    def _locate(self, stop: int) -> tuple[str, dict[str, str]]:
        """Return where the hub keeps the bytes, and the headers to send there.

        Large files are in a storage on another host; its address holds an authorisation that expires. The user's token
        is sent to the hub only.
        """
        url = hf_hub_url(self.repository, self.name, revision=self.commit)
        metadata = get_hf_file_metadata(url)
        if metadata.size is not None and stop > metadata.size:
            raise VocabkitError(f"{self}: has {metadata.size} bytes, but should have {stop}; the file is damaged")
        headers = build_hf_headers(library_name="vocabkit")
        if _origin(metadata.location) != _origin(url):
            headers.pop("authorization", None)
        return metadata.location, headers

    def _unwanted(self, response: Any, start: int) -> int:
        """Return the bytes to skip at the beginning of `response`: all before `start` if the server ignores ranges."""
        if response.status_code == 200:
            return start
        sent = response.headers.get("Content-Range", "")
        if response.status_code != 206 or not sent.startswith(f"bytes {start}-"):
            answer = f"{response.status_code} {sent}"
            raise VocabkitError(f"{self}: asked for bytes from {start}, but the server answers {quote(answer)}")
        return 0


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
