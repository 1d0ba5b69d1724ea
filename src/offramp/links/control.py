"""Changing a link that runs: a line of JSON there, a line of JSON back, over TCP or a Unix socket.

    {"do": "profile", "profile": "lte", "seed": 0}   {"do": "timeline", "timeline": "/a/file.csv"}
    {"do": "cut", "state": "drop", "seconds": 5}     {"do": "restore"}     {"do": "status"}
    ->  {"ok": {...what is in force...}}   or   {"error": "profile: there is no 'lt'; near: lte"}

The socket is for whoever may use it: bind it where only operators reach it (127.0.0.1, or a file).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from offramp.errors import InvalidInput, InvalidSettings, OfframpError
from offramp.links.engines.endpoints import parse_endpoint
from offramp.validation import first_flaw

_MOST_LINE_BYTES = 4096
_TIMEOUT_S = 10.0


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SetProfile(_Command):
    """Another profile, compiled with that seed; the link starts at its first row."""

    do: Literal["profile"]
    profile: str
    seed: Annotated[int, Field(ge=0)] | None = None


class SetTimeline(_Command):
    """A timeline from a file that the link's program can read."""

    do: Literal["timeline"]
    timeline: Path


class Cut(_Command):
    """Nothing passes, for some seconds or until it is restored."""

    do: Literal["cut"]
    state: Literal["drop", "hold"] = "drop"
    seconds: Annotated[float, Field(gt=0)] | None = None


class Restore(_Command):
    """The cut ends."""

    do: Literal["restore"]


class Status(_Command):
    """Only what is in force."""

    do: Literal["status"]


Command = SetProfile | SetTimeline | Cut | Restore | Status
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="do")])


def parse_command(line: bytes) -> Command:
    """The command in a line. Raises InvalidInput naming what is wrong in it."""
    try:
        return _COMMANDS.validate_json(line)
    except ValidationError as exc:
        flaw = first_flaw(exc)
        raise InvalidInput(flaw.key or "command", flaw.text) from exc


class ControlServer:
    """Answers commands at HOST:PORT or at a path, from start() to close()."""

    def __init__(self, address: str, obey: Callable[[Command], Awaitable[dict[str, Any]]]) -> None:
        self._address, self._obey = address, obey
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises InvalidSettings where that is not possible."""
        try:
            if _is_path(self._address):
                self._server = await asyncio.start_unix_server(
                    self._accept, self._address, limit=_MOST_LINE_BYTES
                )
                _protect(self._address)
            else:
                host, port = parse_endpoint("control", self._address)
                self._server = await asyncio.start_server(
                    self._accept, host, port, limit=_MOST_LINE_BYTES
                )
        except OSError as exc:
            message = f"cannot listen on {self._address}: {exc.strerror}"
            raise InvalidSettings("control", message) from exc

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except ValueError:  # readline's word for a line that is too long
            writer.write(b'{"error": "command: longer than 4096 bytes"}\n')
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return {"ok": await self._obey(parse_command(line))}
        except OfframpError as exc:
            return {"error": str(exc)}

    async def close(self) -> None:
        """Listen no more, and answer nobody."""
        if self._server is not None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if _is_path(self._address):
                _remove(self._address)


def ask(address: str, command: dict[str, Any]) -> dict[str, Any]:
    """Send a command to a running link; returns what is then in force.

    Raises InvalidInput with the link's own words where it refuses, or naming `control` where nobody answers.
    """
    line = json.dumps(command).encode() + b"\n"
    try:
        with _connect(address) as connection, connection.makefile("rwb") as stream:
            stream.write(line)
            stream.flush()
            answer = json.loads(stream.readline())
    except OSError as exc:
        message = f"no link answers at {address}: {exc.strerror or exc}"
        raise InvalidInput("control", message) from exc
    except ValueError as exc:
        raise InvalidInput("control", f"what answers at {address} is no link") from exc
    if "error" in answer:
        field, _, message = str(answer["error"]).partition(": ")
        raise InvalidInput(field, message)
    status: dict[str, Any] = answer["ok"]
    return status


def _connect(address: str) -> socket.socket:
    if _is_path(address):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection
    return socket.create_connection(parse_endpoint("control", address), timeout=_TIMEOUT_S)


def _protect(path: str) -> None:
    Path(path).chmod(0o600)


def _remove(path: str) -> None:
    with suppress(OSError):
        Path(path).unlink()


def _is_path(address: str) -> bool:
    return "/" in address
