"""Inputs changed as what they are, and not only as bytes: JSON and Protocol Buffers.

A fuzzer that flips bits of JSON learns for hours that it is no JSON any more. Half of the inputs are changed so, the
other half in a value, a key or a part that moves.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

Mutate = Callable[[bytes, int, int], bytes]  # the input, the most bytes, a seed
Bytes = Callable[[bytes], bytes]  # an input changed as bytes

_NUMBERS = (0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64)
_VALUES = (None, True, "", "a" * 300, "\ud800", {}, [], 0.5, -0.0, 1e308, float("nan"), *_NUMBERS)


def of_json(as_bytes: Bytes) -> Mutate:
    """Changes a document of JSON."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)  # noqa: S311
        if chance.random() < 0.5:
            return as_bytes(data)[:most]
        try:
            document = [json.loads(data)]
        except (ValueError, RecursionError):
            return as_bytes(data)[:most]
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _change(document, chance)
        return json.dumps(document[0] if document else None).encode()[:most]

    return mutate


def _change(document: list[Any], chance: random.Random) -> None:
    places = list(_places(document))
    if not places:
        return
    inside, key = chance.choice(places)
    what = chance.random()
    if what < 0.15:
        del inside[key]
    elif what < 0.3:
        other, there = chance.choice(places)
        inside[key] = copy.deepcopy(other[there])
    elif what < 0.4 and isinstance(inside, dict):
        inside[str(key) + chance.choice(("", "s", "_"))] = inside.pop(key)
    elif what < 0.5 and isinstance(inside, list):
        inside.insert(key, copy.deepcopy(inside[key]))
    elif what < 0.75 and isinstance(inside[key], (int, float)):
        inside[key] = inside[key] + chance.choice((-1, 1, 0.5))
    else:
        inside[key] = chance.choice(_VALUES)


def _places(value: Any) -> Any:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def of_protobuf(kind: type[Message], as_bytes: Bytes, between: bytes = b"") -> Mutate:
    """Changes messages of one kind, that are one after the other in an input with some bytes between them."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)  # noqa: S311
        if chance.random() < 0.4:
            return as_bytes(data)[:most]
        parts = data.split(between) if between else [data]
        k = chance.randrange(len(parts))
        try:
            message = kind.FromString(parts[k])
        except DecodeError:
            return as_bytes(data)[:most]
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _change_message(message, chance, as_bytes)
        if between and chance.random() < 0.1:
            parts.insert(chance.randrange(len(parts) + 1), chance.choice(parts))
        parts[k] = message.SerializeToString()
        return between.join(parts)[:most]

    return mutate


def _change_message(message: Any, chance: random.Random, as_bytes: Bytes) -> None:
    """One field of it, or of a message in it, cleared, set or repeated once more."""
    while True:
        field = chance.choice(message.DESCRIPTOR.fields)
        if field.message_type is None or chance.random() < 0.1:
            break
        inner = getattr(message, field.name)
        if not field.is_repeated:
            message = inner
        elif inner:
            message = chance.choice(inner)
        else:
            break
        if not message.DESCRIPTOR.fields:
            return
    if chance.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _change_repeated(getattr(message, field.name), field, chance, as_bytes)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        _set(message, field, _value(field, getattr(message, field.name), chance, as_bytes))


def _change_repeated(values: Any, field: Any, chance: random.Random, as_bytes: Bytes) -> None:
    if field.message_type is not None:
        if values and chance.random() < 0.7:
            values.add().CopyFrom(chance.choice(values))
        else:
            values.add()
        return
    old = chance.choice(values) if values else field.default_value
    old = type(_zero(field))() if isinstance(old, (list, type(None))) else old
    try:
        values.append(_value(field, old, chance, as_bytes))
    except (TypeError, ValueError):
        return


def _zero(field: Any) -> Any:
    return {
        field.CPPTYPE_STRING: b"" if field.type == field.TYPE_BYTES else "",
        field.CPPTYPE_FLOAT: 0.0,
        field.CPPTYPE_DOUBLE: 0.0,
    }.get(field.cpp_type, 0)


def _value(field: Any, old: Any, chance: random.Random, as_bytes: Bytes) -> Any:
    if field.type == field.TYPE_BYTES:
        return as_bytes(old)[:4096]
    if field.type == field.TYPE_STRING:
        return as_bytes(old.encode())[:4096].decode(errors="replace")
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
    if field.cpp_type == field.CPPTYPE_BOOL:
        return not old
    return chance.choice((*_NUMBERS, old + 1, old - 1, chance.randrange(256)))


def _set(message: Any, field: Any, value: Any) -> None:
    try:
        setattr(message, field.name, value)
    except (TypeError, ValueError):
        return  # out of the field's range
