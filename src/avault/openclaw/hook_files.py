"""The files of OpenClaw's hook: what lies in hooks/avault-unlock/; the generator puts it here."""

from __future__ import annotations

HOOK_FILES: dict[str, str] = {}
