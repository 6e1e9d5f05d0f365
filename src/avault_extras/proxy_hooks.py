"""What is done at each event in mitmproxy's place, which takes longer for it."""

from __future__ import annotations

from typing import Any

from mitmproxy import http
from mitmproxy.flow import Flow
from mitmproxy.proxy import events
from mitmproxy.proxy.layers import http as layers


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

    def call_at_once(self, hook: Any) -> None:
        """The same, of a hook that waits for nothing; where it does, what it is about ends."""
        work = self.call(hook)
        try:
            work.send(None)
        except StopIteration:
            return
        work.close()
        [data] = hook.args()
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


class WatchedStream(layers.HttpStream):  # type: ignore[misc]
    """A request, of which it is heard when its client takes it back (RFC 9113, 5.4.2).

    While it waits for an addon, mitmproxy keeps that to itself. And most hooks wait for nothing:
    these are called here, where mitmproxy has them pass all layers, out and in again. One process
    has one session: `waiters` and `hooks` are its own.
    """

    waiters: Any = None
    hooks: Any = None

    def handle_event(self, event: Any) -> Any:
        """As of mitmproxy's."""
        if isinstance(event, layers.RequestProtocolError):
            self.waiters.note_left(self.flow)
        for command in super().handle_event(event):
            is_own = command.blocking is self  # not one of a stream that is within this one
            if is_own and type(command) in QUICK and waits_for_nothing(command):
                self.hooks.call_at_once(command)
                yield from self.handle_event(events.HookCompleted(command))
            else:
                yield command


QUICK = (layers.HttpRequestHook, layers.HttpResponseHeadersHook, layers.HttpResponseHook)


def waits_for_nothing(hook: Any) -> bool:
    """Whether a hook is done at once: by HTTP/1.1, without a body that is yet to be filled.

    What becomes a WebSocket goes by mitmproxy's own way.
    """
    flow = hook.flow
    is_newer = b"h2" in (flow.client_conn.alpn, flow.server_conn.alpn)
    is_switched = flow.response is not None and flow.response.status_code == 101
    return not (is_newer or is_switched or "plan" in flow.metadata)


def watch_streams(waiters: Any, hooks: Hooks) -> None:
    """Replace mitmproxy's class; made for the pinned version."""
    WatchedStream.waiters, WatchedStream.hooks = waiters, hooks
    layers.HttpStream = WatchedStream
