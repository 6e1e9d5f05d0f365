"""The files of OpenClaw's hook: what lies in hooks/avault-unlock/, which the generator puts here."""

from __future__ import annotations

HOOK_FILES: dict[str, str] = {}
