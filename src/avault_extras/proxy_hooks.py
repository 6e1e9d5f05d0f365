"""What is done at each event in mitmproxy's place, which takes longer for it."""

from __future__ import annotations

from typing import Any

from mitmproxy import http
from mitmproxy.flow import Flow


def trust_types() -> None:
    """Have mitmproxy not look at the types of messages' parts: it has made them itself."""
    http.MessageData.__post_init__ = lambda self: None


class Hooks:
    """Has addons hear of what happens, in their order; in the place of mitmproxy's manager of them.

    That looks for each hook at each addon each time, and goes on where one has failed. Here a
    failure ends what it is about: nothing goes by that was not decided on.
    """

    def __init__(self, addons: list[Any]) -> None:
        self.addons = addons
        self.known: dict[str, list[Any]] = {}  # those that have a hook, by its name

    async def call(self, hook: Any) -> None:
        """As of mitmproxy's manager; raises nothing."""
        [data] = hook.args()
        if (addons := self.known.get(hook.name)) is None:
            addons = [each for each in self.addons if hasattr(each, hook.name)]
            self.known[hook.name] = addons
        try:
            for each in addons:
                if (done := getattr(each, hook.name)(data)) is not None:
                    await done
        except Exception:  # neither said nor kept: a value may be in it
            end(hook.name, data)


def end(name: str, data: Any) -> None:
    """End what a hook has failed about: a message, a request, a connection that is to begin."""
    if isinstance(data, Flow):
        if isinstance(data, http.HTTPFlow) and data.websocket and data.websocket.messages:
            data.websocket.messages[-1].drop()
        if data.killable:
            data.kill()
    elif name == "server_connect":
        data.server.error = "it failed"
