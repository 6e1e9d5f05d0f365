"""The sockets of grants, in the supervisor: made and closed as the keyholder says, gone with it.

Who connects is looked at by uid, as the kernel tells it, and handed on with the grant's identity:
what a grant is for, only the keyholder knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING

from avault.daemon.child import Child
from avault.errors import AvaultError
from avault.places import GRANT, Places
from avault.plain import peer_uid

if TYPE_CHECKING:
    from collections.abc import Callable

    from avault.protocol import Message

    Take = Callable[[socket.socket, "GrantSocket"], None]


MOST_FIRST = 100  # connections of one grant whose first frame has not come yet


class GrantSocket:
    """A grant's socket, for processes of `uids`; `waiting` have not sent their first frame yet.

    `take` is given each connection. Raises AvaultError where it cannot listen.
    """

    def __init__(self, identity: str, uids: frozenset[int], path: str, take: Take) -> None:
        self.identity, self.uids, self.path, self.take = identity, uids, path, take
        self.waiting: list[socket.socket] = []
        self.is_closed = False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # 0700 by our umask; or 0666 from the first, as a mode given by path follows links:
            # whose connections they are, the kernel says
            mask = os.umask(0o111) if uids - {os.getuid()} else None
            try:
                self.socket.bind(path)
            finally:
                if mask is not None:
                    os.umask(mask)
            self.socket.listen(128)
        except OSError as error:
            self.socket.close()
            raise AvaultError(f"cannot listen at {path}: {error.strerror or error}") from None
        self.socket.setblocking(False)
        info = os.lstat(path)
        self.bound = (info.st_dev, info.st_ino)
        self.listen()

    def listen(self) -> None:
        """Take connections from now on, unless it was closed meanwhile."""
        if not self.is_closed:
            asyncio.get_running_loop().add_reader(self.socket, self.accept)

    def accept(self) -> None:
        """Take a connection of those it is for; of others it is closed without a word."""
        try:
            sock, _ = self.socket.accept()
        except BlockingIOError:
            return
        except OSError:  # out of descriptors
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.socket)
            loop.call_later(0.1, self.listen)
            return
        if peer_uid(sock) not in self.uids:
            sock.close()
            return
        self.waiting.append(sock)
        if len(self.waiting) > MOST_FIRST:
            with contextlib.suppress(OSError):
                self.waiting.pop(0).shutdown(socket.SHUT_RDWR)  # as if it had left
        self.take(sock, self)

    def leave(self, sock: socket.socket) -> None:
        """It was answered, handed on, or has left."""
        if sock in self.waiting:
            self.waiting.remove(sock)

    def close(self) -> None:
        """Listen no more; who waits is cut off, and the path goes, if it is still ours."""
        self.is_closed = True
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()
        for sock in self.waiting:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            info = os.lstat(self.path)
            if (info.st_dev, info.st_ino) == self.bound:
                os.unlink(self.path)


class GrantSockets:
    """Those there are, by the identity of their grants. `take` is given each connection.

    They are beside the daemon's own socket, each in a directory of its grant's name: that can be
    mounted into a container, and stays until the daemon ends, so that a grant of the same name is
    found there again.
    """

    def __init__(self, places: Places, child: Child) -> None:
        self.places, self.child = places, child
        self.take: Take = lambda sock, _: sock.close()
        self.open: dict[str, GrantSocket] = {}
        self.made: set[str] = set()  # directories

    def top(self) -> str:
        """The directory that they are in."""
        return grants_directory(self.places)

    def hear(self, message: Message) -> bool:
        """Take a message of the keyholder that is about grants: whether it is."""
        if "grant" not in message:
            return False
        identity = str(message["identity"])
        answer: Message = {"do": "grant", "identity": identity, "path": None, "failed": None}
        if message["grant"] == "close":
            self.close(identity)
        else:
            try:
                uids = frozenset(message["uids"])
                answer["path"] = self.listen(identity, str(message["name"]), uids)
            except AvaultError as error:
                answer["failed"] = error.to_dict()["error"]
        if self.child.control:
            self.child.control.send(answer)
        return True

    def listen(self, identity: str, name: str, uids: frozenset[int]) -> str:
        """Make a socket: its path. Raises AvaultError."""
        is_shared = bool(uids - {os.getuid()})
        place = os.path.join(self.top(), name)
        path = os.path.join(place, GRANT)
        if len(os.fsencode(path)) > (107 if sys.platform == "linux" else 103):
            raise AvaultError(f"the socket's path is too long: {path}", "choose a shorter name")
        is_any_shared = is_shared or any(each.uids - {os.getuid()} for each in self.open.values())
        make_directory(self.top(), is_any_shared)
        make_directory(place, is_shared)
        self.made.add(place)
        remove_socket(path)
        self.open[identity] = GrantSocket(identity, uids, path, self.take)
        return path

    def close(self, identity: str) -> None:
        """Close one, if it is there."""
        if made := self.open.pop(identity, None):
            made.close()

    def end(self) -> None:
        """The keyholder is gone, and every grant with it."""
        for identity in [*self.open]:
            self.close(identity)

    def leave(self) -> None:
        """The daemon ends: nothing of them is left."""
        self.end()
        for place in (*self.made, self.top()):
            with contextlib.suppress(OSError):  # what others have put there stays
                os.rmdir(place)

    def clean(self) -> None:
        """Take away what a daemon has left that was killed."""
        with contextlib.suppress(OSError, AvaultError):
            check_directory(self.top())
            for name in os.listdir(self.top()):
                place = os.path.join(self.top(), name)
                check_directory(place)
                self.made.add(place)
                remove_socket(os.path.join(place, GRANT))


def grants_directory(places: Places) -> str:
    """Where the sockets of a vault's grants are."""
    return places.socket.removesuffix(".sock") + "-grants"


def check_directory(path: str) -> None:
    """Raise AvaultError unless it is a directory of ours, no link, which only we can write to."""
    info = os.lstat(path)
    if info.st_mode & 0o170022 != 0o040000 or info.st_uid != os.getuid():
        raise AvaultError(f"{path} is not a directory that only we can write to", "take it away")


def make_directory(path: str, is_shared: bool) -> None:
    """Have a directory of ours; others may go through it where they are to, and never list it.

    Raises AvaultError.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        check_directory(path)
        os.chmod(path, 0o711 if is_shared else 0o700)
    except OSError as error:
        raise AvaultError(f"cannot make {path}: {error.strerror or error}") from None


def remove_socket(path: str) -> None:
    """Take away a socket that was left; raises AvaultError for anything else that is there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AvaultError(f"{path} is there, and is no socket", "take it away")
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise AvaultError(f"cannot listen at {path}: {error.strerror or error}") from None
