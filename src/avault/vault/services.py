"""The usual services: to which hosts their keys go, in which header, and what the keys look like.

One table, for `avault guard --preset`, for what looks like a secret, and for placeholders.
"""

from __future__ import annotations

from avault.errors import Usage

# hosts as a guard has them, header, and the form of a key as a pattern (in verbose syntax), ""
# for one without a mark
SERVICES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "openai": (
        ("api.openai.com",),
        "Authorization: Bearer KEY",
        r"sk-(?=[A-Za-z_-]{0,99}+[0-9])[A-Za-z0-9_-]{16,}",
    ),
    "anthropic": (
        ("api.anthropic.com",),
        "x-api-key: KEY",
        r"sk-ant-(?=[A-Za-z_-]{0,99}+[0-9])[A-Za-z0-9_-]{16,}",
    ),
    "openrouter": (
        ("openrouter.ai",),
        "Authorization: Bearer KEY",
        r"sk-or-(?=[A-Za-z_-]{0,99}+[0-9])[A-Za-z0-9_-]{16,}",
    ),
    "deepseek": (("api.deepseek.com",), "Authorization: Bearer KEY", ""),
    "mistral": (("api.mistral.ai",), "Authorization: Bearer KEY", ""),
    "cohere": (("api.cohere.com",), "Authorization: Bearer KEY", ""),
    "groq": (("api.groq.com",), "Authorization: Bearer KEY", r"gsk_[A-Za-z0-9]{40,}"),
    "xai": (("api.x.ai",), "Authorization: Bearer KEY", r"xai-[A-Za-z0-9]{40,}"),
    "perplexity": (("api.perplexity.ai",), "Authorization: Bearer KEY", r"pplx-[A-Za-z0-9]{32,}"),
    "google": (
        ("generativelanguage.googleapis.com",),
        "x-goog-api-key: KEY",
        r"AIza[A-Za-z0-9_-]{35}",
    ),
    "huggingface": (
        ("huggingface.co", "router.huggingface.co"),
        "Authorization: Bearer KEY",
        r"hf_[A-Za-z0-9]{30,}",
    ),
    "replicate": (("api.replicate.com",), "Authorization: Bearer KEY", r"r8_[A-Za-z0-9]{30,}"),
    "elevenlabs": (("api.elevenlabs.io",), "xi-api-key: KEY", ""),
    "tavily": (("api.tavily.com",), "Authorization: Bearer KEY", r"tvly-[A-Za-z0-9-]{20,}"),
    "brave": (("api.search.brave.com",), "X-Subscription-Token: KEY", ""),
    "github": (
        ("api.github.com", "github.com", "uploads.github.com"),
        "Authorization: Bearer KEY",
        r"gh[pousr]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{30,}",
    ),
    "gitlab": (("gitlab.com",), "PRIVATE-TOKEN: KEY", r"glpat-[A-Za-z0-9_-]{20,}"),
    "npm": (("registry.npmjs.org",), "Authorization: Bearer KEY", r"npm_[A-Za-z0-9]{36}"),
    "pypi": (
        ("upload.pypi.org",),
        "Authorization: Basic (__token__:KEY)",
        r"pypi-[A-Za-z0-9_-]{50,}",
    ),
    "stripe": (
        ("api.stripe.com", "files.stripe.com"),
        "Authorization: Bearer KEY",
        r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",
    ),
    "sendgrid": (
        ("api.sendgrid.com",),
        "Authorization: Bearer KEY",
        r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    ),
    "shopify": (
        ("*.myshopify.com",),
        "X-Shopify-Access-Token: KEY",
        r"shp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}",
    ),
    "digitalocean": (
        ("api.digitalocean.com",),
        "Authorization: Bearer KEY",
        r"dop_v1_[a-f0-9]{64}",
    ),
    "cloudflare": (("api.cloudflare.com",), "Authorization: Bearer KEY", ""),
    "slack": (
        ("slack.com", "files.slack.com"),
        "Authorization: Bearer KEY",
        r"xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{20,}",
    ),
    "telegram": (
        ("path@api.telegram.org",),
        "the path: /botKEY/…",
        r"[0-9]{8,10}:[A-Za-z0-9_-]{35}",
    ),
    "discord": (("discord.com",), "Authorization: Bot KEY", ""),
    "notion": (("api.notion.com",), "Authorization: Bearer KEY", r"ntn_[A-Za-z0-9]{40,}"),
    "linear": (("api.linear.app",), "Authorization: KEY", r"lin_api_[A-Za-z0-9]{30,}"),
}


def find_service(name: str) -> tuple[tuple[str, ...], str, str]:
    """What the table has of a service; raises Usage."""
    if name not in SERVICES:
        raise Usage("no such preset", f"one of: {', '.join(sorted(SERVICES))}; or name --host")
    return SERVICES[name]
