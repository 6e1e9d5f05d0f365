"""Which of the forms that avault reads a file is."""

from __future__ import annotations

import csv
import json
import os
import re
from typing import TYPE_CHECKING

from avault.errors import Usage
from avault.intake.files import read_aws, read_netrc, read_npmrc, read_pgpass
from avault.intake.kubernetes import read_kubernetes
from avault.intake.logins import FileSecrets
from avault.intake.managers import find_columns, find_items, read_bitwarden, read_csv
from avault.intake.token_files import find_token_form, read_claude, read_codex

if TYPE_CHECKING:
    from collections.abc import Callable


FORM_READERS: dict[str, Callable[[str], FileSecrets]] = {
    "aws": read_aws, "netrc": read_netrc, "pgpass": read_pgpass, "npmrc": read_npmrc,
    "k8s": read_kubernetes, "csv": read_csv, "bitwarden": read_bitwarden, "claude": read_claude,
    "codex": read_codex,
}  # fmt: skip
IMPORT_FORMS = ("dotenv", "json", *FORM_READERS)
OF_NAMES = {"netrc": "netrc", "pgpass": "pgpass", "npmrc": "npmrc", "csv": "csv", "env": "dotenv"}


def form_of(file: str, text: str) -> str:
    """Which of FORMS a file is, by its name and by what is in it.

    Raises Usage for what is known, and not read.
    """
    start = text.lstrip("\ufeff \t\r\n")
    name = os.path.basename(file).lower().lstrip("._").removesuffix(".conf")
    if start[:1] == "{" or re.match(r"\[\s*([\[{\"\]0-9]|\Z)", start):
        return form_of_json(start)
    if known := OF_NAMES.get(name) or OF_NAMES.get(name.rpartition(".")[2]):
        return known
    if re.search(
        r"(?m)^kind:[ \t]*[\"']?(Secret|SealedSecret|List|SecretList)[\"']?[ \t]*\r?$", text
    ):
        return "k8s"
    if re.match(r"(?:[#;].*\n\s*)*\[[^\]\n]+\][ \t]*\r?(\n|\Z)", start):
        if re.search(
            r"(?mi)^[^\S\n]*aws_(access_key_id|secret_access_key|session_token)\s*=", text
        ):
            return "aws"
        raise Usage(
            "it is an INI file, of a kind that avault does not know",
            "write KEY=value lines, or: avault set GROUP/KEY",
        )
    if re.match(
        r"(?:#.*\n\s*)*(machine[ \t]+\S+|default)\s+(login|password|account|user)\s", start
    ):
        return "netrc"
    if re.search(r"(?m)^[ \t]*//[^\s=]+:_(authToken|auth|password)[ \t]*=", text):
        return "npmrc"
    header = start.partition("\n")[0].rstrip("\r")
    if "," in header and "=" not in header and find_columns(next(csv.reader([header]), [])):
        return "csv"
    is_yaml = re.match(
        r"(?:(?:#.*|---[ \t]*\r?)\n\s*)*[\"']?[A-Za-z_][\w.-]*[\"']?:(?:[ \t]|\r?\n|\Z)", start
    )
    if name.endswith((".yaml", ".yml")) or (is_yaml and "=" not in start.partition(":")[0]):
        raise Usage(
            "it is YAML, and no Secret of Kubernetes",
            "as JSON it can be read: yq -o json FILE | avault import -",
        )
    return "dotenv"


def form_of_json(text: str) -> str:
    """Which of FORMS a JSON text is."""
    if not re.search(r'"(items|login|kind|claudeAiOauth|tokens)"\s*:', text):
        return "json"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return "json"  # which says what is wrong
    if isinstance(content, dict) and str(content.get("kind")) in (
        "Secret",
        "SealedSecret",
        "List",
        "SecretList",
    ):
        return "k8s"
    if tokens := find_token_form(content):
        return tokens
    return "bitwarden" if find_items(content) else "json"
