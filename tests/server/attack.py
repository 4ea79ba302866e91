"""Requests that somebody might send who means harm or has a defect: any message of the contract, and any bytes."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import psutil
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from kgrank.v1 import (
    ranking_service_pb2,
)
from tests.server.methods import path_of

ROOT = Path(__file__).parents[2]
FIELD = FieldDescriptor
HANGS_S = 60

INJECTIONS = [
    "x' OR 1=1 //",
    "'}) DETACH DELETE n //",
    "`) MATCH (n) DETACH DELETE n WITH 1 AS a //",
    "\\u0027}) CREATE (:Hacked) //",
    "$rows",
    "{{7*7}}${7*7}%s%n{0}",
    'a", "event": "forged", "b": "',
    'a\n{"event": "forged"}',
    "a\r\n\x1b[2J\x1b[31mforged",
    "\u2028\u0085forged",
    "../../../../etc/passwd",
    "models/../../../etc/passwd",
    "\x00",
    "\u202eredro\u202c",
    "𝕏" * 64,
    "e\u0301" * 100,
    "x" * 256,
    "x" * 257,
    "x" * 100_000,
    "",
    " ",
    "NaN",
    "-1",
]
"""What breaks programs that build text of queries, logs or paths."""

_SENSIBLE = {
    "user_id": ["user-01", "user-07", "newcomer", "nobody", ""],
    "brand": ["Acme", "Bolt"],
    "brands": ["Acme", "Bolt"],
    "category": ["Things", "Kind 1"],
    "categories": ["Things", "Things > Kind 1"],
    "kind": ["product"],
    "relation": ["ALSO_BOUGHT", "MADE_OF"],
    "language_code": ["en", "zh", ""],
    "query": ["thing 12", "acme thnig", "red"],
    "page_token": [""],
    "paths": ["price", "available", "title"],
    "key": ["colour"],
    "value": ["red"],
    "values": ["red", "blue"],
    "attribution_token": [""],
    "shadow": [""],
}
_NEEDED = {"user_id", "product_id", "product_ids", "products", "event", "events", "type", "rule", "action", "facts"}
_NEEDED |= {"head", "relation", "tail", "kind", "id", "rule_id", "query"}
_INTEGERS = [0, 1, -1, 2, 3, 5, 10, 100, 1000, 1001, 10_001, 2**31 - 1, -(2**31), 2**62, -(2**63), 2**63 - 1]
_FLOATS = [0.0, -0.0, 0.5, 1.0, 2.0, -1.0, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 5e-324, 100.0]
_CHARACTERS = [*range(32, 127), *range(0x4E00, 0x4E20), 0x1F600]
_MOST_DEEP = 4


def request_for(random: Random, kind: Descriptor) -> Message:
    """Return any message of a kind: one that makes sense, one with something odd in it, or one that is odd all over."""
    return _message(random, kind, random.choice([0.0, 0.05, 0.5]), 0)


def _message(random: Random, kind: Descriptor, oddness: float, depth: int) -> Message:
    made = GetMessageClass(kind)()
    for field in kind.fields:
        left_out = 0.35 if field.name not in _NEEDED or random.random() < oddness else 0.0
        if random.random() < left_out or (depth >= _MOST_DEEP and field.message_type is not None):
            continue
        if is_repeated(field):
            _fill(random, made, field, oddness, depth)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(_message(random, field.message_type, oddness, depth + 1))
        else:
            setattr(made, field.name, _scalar(random, field, oddness))
    return made


def is_repeated(field: FieldDescriptor) -> bool:
    """Return whether a field holds a list or a map."""
    return bool(field.is_repeated)


def _fill(random: Random, made: Message, field: FieldDescriptor, oddness: float, depth: int) -> None:
    count = random.choice([0, 20]) if random.random() < oddness else random.choice([1, 1, 2, 3])
    if field.message_type is None:
        getattr(made, field.name).extend(_scalar(random, field, oddness) for _ in range(count))
    elif field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(count):
            getattr(made, field.name)[_scalar(random, key, oddness)] = _scalar(random, value, oddness)
    else:
        kind = field.message_type
        getattr(made, field.name).extend(_message(random, kind, oddness, depth + 1) for _ in range(count))


def _scalar(random: Random, field: FieldDescriptor, oddness: float) -> Any:
    odd = random.random() < oddness
    kind = field.cpp_type
    if kind == FIELD.CPPTYPE_STRING:
        text = _odd_text(random) if odd else _text(random, field.name)
        return text.encode("utf-8", "replace") if field.type == FIELD.TYPE_BYTES else text
    if kind in (FIELD.CPPTYPE_DOUBLE, FIELD.CPPTYPE_FLOAT):
        return random.choice(_FLOATS) if odd else random.random()
    if kind == FIELD.CPPTYPE_BOOL:
        return random.random() < 0.5
    if kind == FIELD.CPPTYPE_ENUM:
        known = [value.number for value in field.enum_type.values]
        return random.choice([0, -1, 99, 2**31 - 1] if odd else known[1:])
    if not odd:
        return random.randrange(1_600_000_000, 1_700_000_000) if field.name == "seconds" else random.randrange(1, 11)
    bits = 32 if kind in (FIELD.CPPTYPE_INT32, FIELD.CPPTYPE_UINT32) else 64
    unsigned = kind in (FIELD.CPPTYPE_UINT32, FIELD.CPPTYPE_UINT64)
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return min(max(random.choice(_INTEGERS), low), high)


def _text(random: Random, name: str) -> str:
    """Return a text that makes sense in a field, by the field's name."""
    if name in ("event_id", "rule_id"):
        return f"{name}-{random.randrange(50)}"
    if name.endswith(("product_id", "product_ids", "id")) and name != "user_id":
        return f"product-{random.randrange(95):02}"  # some of them nobody has
    return random.choice(_SENSIBLE.get(name, ["a thing"]))


def _odd_text(random: Random) -> str:
    if random.random() < 0.7:
        return random.choice(INJECTIONS)
    return "".join(chr(random.choice(_CHARACTERS)) for _ in range(random.randrange(20)))


def mutated(random: Random, serialised: bytes) -> bytes:
    """Return bytes near those of a request: bits turned, cut, doubled, nested, or with lengths that lie."""
    made = bytearray(serialised)
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(made) + 1)
        kind = random.randrange(7)
        if kind == 0 and made:
            made[place % len(made)] ^= 1 << random.randrange(8)
        elif kind == 1:
            del made[place:]
        elif kind == 2:
            made[place:place] = random.randbytes(random.randrange(1, 9))
        elif kind == 3:
            made += made[: random.randrange(len(made) + 1)]
        elif kind == 4:
            made[place:place] = b"\xff\xff\xff\xff\x7f"  # a length of 34 GB
        elif kind == 5:
            nested = b""
            for _ in range(random.choice([3, 200])):
                nested = b"\x32" + _varint(len(nested)) + nested  # field 6 in field 6 in field 6: `context`, and on
            made[place:place] = nested
        else:
            made[place:place] = bytes([random.randrange(256)]) * random.choice([1, 64])
    return bytes(made[: 1 << 16])


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


async def outcome(
    channel: grpc.aio.Channel, target: str, method: MethodDescriptor, requests: Sequence[bytes]
) -> tuple[grpc.StatusCode, str]:
    """Make one call with these bytes; return what it ended in, and everything that it said of an error."""
    raw: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": bytes}
    try:
        if not method.server_streaming:
            await channel.unary_unary(path_of(method), **raw)(requests[0], timeout=HANGS_S)
            return grpc.StatusCode.OK, ""
        if method.client_streaming:
            return await asyncio.to_thread(_streamed, target, method, requests)
        async for _ in channel.unary_stream(path_of(method), **raw)(requests[0], timeout=HANGS_S):
            pass
        return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        return _told(error)


def _streamed(target: str, method: MethodDescriptor, requests: Sequence[bytes]) -> tuple[grpc.StatusCode, str]:
    """Make a call with a stream of requests, by the client that can tell a refusal from its own failure to go on."""
    with grpc.insecure_channel(target) as channel:
        call = channel.stream_stream(path_of(method), request_serializer=bytes, response_deserializer=bytes)
        try:
            answers = list(call(iter(requests), timeout=HANGS_S))
        except grpc.RpcError as error:
            return _told(error)
    if method.output_type != ranking_service_pb2.BatchRecommendResponse.DESCRIPTOR:
        return grpc.StatusCode.OK, ""
    return _worst(ranking_service_pb2.BatchRecommendResponse.FromString(answer) for answer in answers)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _worst(
    answers: Iterable[ranking_service_pb2.BatchRecommendResponse],
) -> tuple[grpc.StatusCode, str]:
    """Return what a stream of answers counts as: an error that nothing may end in, else an answer, else an error."""
    ended = [(_CODES[each.error.code], f"{each.error.message} {each.error.reason}") for each in answers]
    ended.sort(key=lambda each: (each[0] not in UNFORGIVEN, each[0] is not grpc.StatusCode.OK))
    return ended[0] if ended else (grpc.StatusCode.OK, "")


def _told(error: Any) -> tuple[grpc.StatusCode, str]:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    said = str(status_pb2.Status.FromString(details)) if isinstance(details, bytes) else ""
    return error.code(), f"{error.details()} {said}"


UNFORGIVEN = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
"""What no request may end in: a defect, an error that nobody mapped, a hang."""

LEAKS = (
    "Traceback",
    'File "',
    ".py",
    "/work/",
    "/tmp/",
    "MATCH (:",
    "UNWIND ",
    "MERGE (",
    "sqlite",
    "neo4j.exceptions",
    "password",
)
"""What no error may tell of the server's inside."""


async def storm(
    target: str,
    methods: Sequence[MethodDescriptor],
    count: int,
    seed: int,
    at_once: int = 16,
    excused: Sequence[str] | None = None,
    log: Path | None = None,
) -> Counter[str]:
    """Send any requests, two in five of them as mutated bytes; return how many ended in what.

    Args:
        target: the server.
        methods: the calls, each as often as the others.
        count: how many requests.
        seed: the same ones for the same seed.
        at_once: how many are under way together.
        excused: the only reasons for which a call may be UNAVAILABLE; any if None.
        log: the server's, whose folder does not last: its defects stand beside what failed.

    Raises:
        AssertionError: one ended as none may; the message has what makes it again.
    """
    seen: Counter[str] = Counter()
    numbers = iter(range(count))

    async def one_after_the_other(channel: grpc.aio.Channel) -> None:
        for number in numbers:
            method, requests = request_of(seed, number, methods)
            code, said = await outcome(channel, target, method, requests)
            seen[f"{method.name} {code.name}"] += 1
            told = f"seed {seed} number {number}: {method.full_name} {code.name} {said}"
            assert code not in UNFORGIVEN, told
            if code is grpc.StatusCode.UNAVAILABLE and excused is not None:
                assert any(reason in said for reason in excused), told
            assert not any(leak in said for leak in LEAKS), told

    async with grpc.aio.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        try:
            await asyncio.gather(*(one_after_the_other(channel) for _ in range(at_once)))
        except AssertionError as error:
            failed = [line for line in log.read_text().splitlines() if "Traceback" in line] if log else []
            error.add_note("\n".join(failed[-3:]))
            raise
    return seen


def request_of(seed: int, number: int, methods: Sequence[MethodDescriptor]) -> tuple[MethodDescriptor, list[bytes]]:
    """Return the request of a number: the same ones each time."""
    random = Random(seed * 1_000_003 + number)
    method = methods[number % len(methods)]
    streamed = random.choice([0, 1, 3]) if method.client_streaming else 1
    made = [request_for(random, method.input_type).SerializeToString() for _ in range(streamed)]
    return method, [mutated(random, each) if random.random() < 0.4 else each for each in made]


@contextmanager
def attacked(home: Path, *arguments: str, **environment: str) -> Iterator[tuple[str, psutil.Process, Path]]:
    """Run `kgrank serve` in a process of its own; yield its address, the process, and its log."""
    log = home / "serve.log"
    command = [sys.executable, "-m", "server.main", "serve", "--port", "0", "--json", *arguments]
    told = os.environ | {"KGRANK_HOME": str(home), "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"} | environment
    with (
        log.open("w") as file,
        subprocess.Popen(command, env=told, cwd=home, stdout=subprocess.PIPE, stderr=file, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)["target"], psutil.Process(process.pid), log
        finally:
            process.terminate()
            process.wait(60)
