"""Parts of a file on the Hugging Face hub, by HTTP range requests (RFC 9110, section 14) through huggingface_hub."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import huggingface_hub.errors
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from vocabkit.errors import VocabkitError, quote

TransportError: type[Exception] = huggingface_hub.errors.HTTPError  # type: ignore[attr-defined]
"""What the HTTP library of huggingface_hub (httpx) raises when a connection fails."""
_ATTEMPTS = 5
"""That bring nothing, before giving up."""
_BUSY = (408, 429, 500, 502, 503, 504)
"""Answers that may be others a little later."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of one commit of a hub repository."""

    repository: str
    commit: str
    name: str

    def __str__(self) -> str:
        return f"{self.repository}/{self.name}"

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`. Raises as `fetch` does."""
        buffer = io.BytesIO()
        self.fetch(start, stop, buffer)
        return buffer.getvalue()

    def fetch(
        self, start: int, stop: int, into: BinaryIO, progress: Callable[[int], None] = lambda received: None
    ) -> None:
        """Write bytes `start` to `stop` into `into`, and go on where a connection breaks off.

        Args:
            progress: called with the number of bytes received so far.

        Raises:
            HfHubHTTPError: the hub refuses. OfflineModeIsEnabled: so it is.
            VocabkitError: the file is shorter, the answer another one, or the connection keeps breaking off.
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
                    f"({quote(failure, 100)}); run again to go on from there"
                )
            if at < stop:
                time.sleep(0.1 * 2**idle)

    def _stream(self, start: int, stop: int) -> Iterator[bytes]:
        """These bytes, as far as they come."""
        url, headers = self._locate(stop)
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            skip, left = self._unwanted(response, start), stop - start
            for chunk in response.iter_bytes():  # as they come: what waits for a full chunk is lost with the connection
                wanted = chunk[skip : skip + left]
                skip = max(0, skip - len(chunk))
                left -= len(wanted)
                if wanted:
                    yield wanted
                if not left:
                    return

    def _locate(self, stop: int) -> tuple[str, dict[str, str]]:
        """Where the hub keeps the bytes, and the headers to send there.

        For large files that is a storage on another host, with an authorisation of its own in the address, which
        expires. The user's token stays with the hub.
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
        """Bytes at the beginning of `response` that were not asked for: all before `start`, if it ignores ranges."""
        if response.status_code == 200:
            return start
        sent = response.headers.get("Content-Range", "")
        if response.status_code != 206 or not sent.startswith(f"bytes {start}-"):
            answer = f"{response.status_code} {sent}"
            raise VocabkitError(f"{self}: asked for its bytes from {start} on, the server answers {quote(answer)}")
        return 0


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
