"""doctor: installed versions and devices."""

from __future__ import annotations

from .options import AsJson
from .show import show, show_json


def doctor(json: AsJson = False) -> None:
    """Show installed versions, devices, and how visual tokens are computed here and why."""
    from vocabkit.llm.environment import environment

    found = environment()
    if json:
        show_json(found)
        return
    from vocabkit.report.environment import environment_report

    show(environment_report(found))
