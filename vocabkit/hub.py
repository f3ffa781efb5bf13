"""Single files of repositories on the Hugging Face hub, from the local cache or downloaded."""

from __future__ import annotations

import re
from pathlib import Path

from vocabkit.errors import VocabkitError, quote

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(text: str) -> bool:
    """True for owner/name."""
    return _HUB_ID.fullmatch(text) is not None


class Repository:
    """A model repository. huggingface_hub's settings apply: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reachable = True
        """False after a look-up that did not reach the hub: then files come from the cache only."""

    def file(self, file: str) -> Path | None:
        """Path of `file` in the local cache, downloaded if it is missing or out of date there. None if the repository
        has no such file, or the hub can't be reached and the cache has none.

        Raises VocabkitError: there is no such repository, it is gated, or the download failed.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.name, file, local_files_only=not self.reachable))
        except LocalEntryNotFoundError:
            self.reachable = False
            return None
        except EntryNotFoundError:
            return None
        except Exception as error:  # also those of the HTTP library, which huggingface_hub changes from time to time
            raise VocabkitError(f"{self.name}: {_reason(self.name, error)}") from error


def why_unreachable() -> str:
    """Why `Repository.reachable` is False, and what to do."""
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set; unset it to download"
    return f"{ENDPOINT} can't be reached as a Hugging Face hub; check the network"


def _reason(repository: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"a gated repository; accept its terms at https://huggingface.co/{repository}, then run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "no such path, and no such repository on the Hugging Face hub; if it is private, run `hf auth login`"
    if isinstance(error, HFValidationError):
        return "no such path, and no valid hub id (owner/name)"
    lines = str(error).splitlines() or [type(error).__name__]
    return f"the download from the Hugging Face hub failed ({quote(lines[0], 120)}); try again"
