"""Single files of repositories on the Hugging Face hub, from the local cache or downloaded."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from vocabkit.errors import VocabkitError, quote

_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class HubId(NamedTuple):
    """A repository on the hub, at a revision."""

    repository: str
    """owner/name"""
    revision: str | None
    """Branch, tag or commit; None for the main branch."""


def hub_id(text: str) -> HubId | None:
    """Parse `owner/name` or `owner/name@revision`; None for any other text."""
    match = _HUB_ID.fullmatch(text)
    return HubId(match["repository"], match["revision"]) if match else None


def is_hub_id(text: str) -> bool:
    """Whether `text` is `owner/name`."""
    found = hub_id(text)
    return found is not None and found.revision is None


class Repository:
    """A model repository. huggingface_hub's settings apply: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE."""

    def __init__(self, name: str) -> None:
        """name: owner/name or owner/name@revision."""
        self.name = name
        self.id = hub_id(name) or HubId(name, None)
        self.reachable = True
        """False after a request that didn't reach the hub; files then come from the cache only."""

    def file(self, file: str) -> Path | None:
        """Return the path of `file` in the local cache, downloading it if missing or outdated. None if the repository
        has no such file, or the hub can't be reached and the file isn't cached.

        Raises VocabkitError: no such repository or revision, gated, refused by the hub, or the download failed.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        repository, revision = self.id
        self.reachable = self.reachable and hub_answers()
        try:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=not self.reachable))
        except Exception as error:  # includes errors of the HTTP library, which huggingface_hub has changed before
            answer = what_the_hub_said(error)
            if not isinstance(answer, EntryNotFoundError):
                raise VocabkitError(f"{self.name}: {why_failed(repository, answer, 'download from')}") from error
            if isinstance(answer, LocalEntryNotFoundError):
                self.reachable = False
            return None


@cache
def hub_answers() -> bool:
    """Whether the hub answers within three seconds, so that commands report a dead one within five.

    huggingface_hub itself retries for 23 seconds in silence.
    """
    from huggingface_hub import get_session
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        return False
    try:
        get_session().head(ENDPOINT, timeout=3)
    except Exception:  # of the HTTP library, which huggingface_hub has changed before
        return False
    return True


def why_unreachable() -> str:
    """Explain why `Repository.reachable` is False, and what to do."""
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set; unset it to download"
    return f"{ENDPOINT} can't be reached as a Hugging Face hub; check the network, or give a local copy"


def what_the_hub_said(error: Exception) -> Exception:
    """Unwrap a refusal of the hub: huggingface_hub reports answers it has no name for as a missing file."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    hidden = error.__cause__
    return hidden if isinstance(error, LocalEntryNotFoundError) and isinstance(hidden, HfHubHTTPError) else error


def why_refused(repository: str, error: Exception) -> str | None:
    """Explain the hub's answer about `repository`, and what to do; None if `error` isn't an answer of the hub."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    match error:
        case errors.GatedRepoError():
            return f"a gated repository; accept its terms at {page}, then run `hf auth login` or set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return (
                "no such path, and no such repository on the Hugging Face hub; if it is private, run `hf auth login` "
                "or set HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            return "no such revision; give a branch, a tag or a commit after the @"
        case errors.HfHubHTTPError():
            status = error.response.status_code
        case _:
            return None
    advice = "check the name and HF_ENDPOINT"
    if status in (401, 403):
        advice = f"if it is gated, accept its terms at {page}; check HF_TOKEN or run `hf auth login`"
    elif status == 429 or status >= 500:
        advice = "try again later"
    return f"the Hugging Face hub answers {status}; {advice}"


def why_failed(repository: str, error: Exception, what: str) -> str:
    """Explain why the `what` (`download from`, `upload to`) the hub failed, and what to do."""
    from huggingface_hub.errors import HFValidationError

    if refusal := why_refused(repository, error):
        return refusal
    if isinstance(error, HFValidationError):
        return "no such path, and no valid hub id (owner/name)"
    lines = str(error).splitlines() or [type(error).__name__]
    return f"the {what} the Hugging Face hub failed ({quote(lines[0], 120)}); try again"
