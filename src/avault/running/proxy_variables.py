"""The environment of a command whose HTTPS goes through a proxy of ours."""

from __future__ import annotations

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")  # each in lower case too
BUNDLES = (  # where clients look for the authorities that they trust; most replace their own
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "npm_config_cafile",
    "CODEX_CA_CERTIFICATE",
)
NEAR = ("localhost", "127.0.0.1", "::1")  # what no client asks a proxy for
INHERITED = frozenset(  # of these, none is inherited
    {
        *PROXIES,
        *map(str.lower, PROXIES),
        *BUNDLES,
        *map(str.upper, BUNDLES),
        "NO_PROXY",
        "no_proxy",
        "NODE_USE_ENV_PROXY",
        "OPENCLAW_PROXY_URL",
        "SSL_CERT_DIR",
        "NODE_TLS_REJECT_UNAUTHORIZED",
        "GIT_SSL_NO_VERIFY",
        "GIT_SSL_CAPATH",
        "GIT_PROXY_SSL_CAINFO",
        "PYTHONHTTPSVERIFY",
        "npm_config_proxy",
        "npm_config_https_proxy",
        "npm_config_noproxy",
        "npm_config_strict_ssl",
        "CODEX_PROXY_CERT",
        "SSLKEYLOGFILE",  # clients write the keys of their connections there
    }
)


def proxy_variables(url: str, bundle: str) -> dict[str, str]:
    """What makes clients use a proxy at an http:// URL, and trust what is in the file `bundle`.

    Of NO_PROXY only what is near stays: what the caller had there would go around.
    """
    near = ",".join(NEAR)
    return {
        **{name: url for each in PROXIES for name in (each, each.lower())},
        "NO_PROXY": near,
        "no_proxy": near,
        "NODE_USE_ENV_PROXY": "1",
        "OPENCLAW_PROXY_URL": url,
        **dict.fromkeys(BUNDLES, bundle),
    }
