"""A claim about speed or memory: ours beside a peer of the same run, and the table that all benchmarks print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Claim:
    """Ours beside a peer. `limit` bounds the ratio: from above, or from below where `at_least`."""

    name: str
    ours: float
    peer: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer

    @property
    def held(self) -> bool | None:
        """Whether the limit is, None without one."""
        if self.limit is None:
            return None
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def report(claims: Sequence[Claim], file: Path | None) -> None:
    """Print the table, and write the claims to `file`, which `make benchmark` collects."""
    print(f"\n{table(claims)}", flush=True)
    if file is not None:
        file.write_text(json.dumps([asdict(claim) for claim in claims], indent=2) + "\n")


def table(claims: Sequence[Claim]) -> str:
    """One line a claim: ours, the peer or limit, the ratio, the goal."""
    lines = [f"{'claim':52s}{'ours':>14s}{'peer or limit':>16s}{'ratio':>8s}  goal"]
    for claim in claims:
        ours, peer = (f"{value:,.{0 if value >= 100 else 2}f} {claim.unit}" for value in (claim.ours, claim.peer))
        goal = ""
        if claim.limit is not None:
            goal = f"{'≥' if claim.at_least else '≤'} {claim.limit:g} {'ok' if claim.held else 'MISSED'}"
        lines.append(f"{claim.name:52s}{ours:>14s}{peer:>16s}{claim.ratio:8.3f}  {goal}")
    return "\n".join(lines)
