"""HTTP/2 by hand: what a peer sends that no client of gRPC would."""

import asyncio
import struct

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The preface of a connection (RFC 9113, section 3.4); SETTINGS follow it."""

HEADERS = 1
"""The kind of the frames that begin calls, and answers."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings_frame(window: int | None = None) -> bytes:
    """Return SETTINGS: all by default, or with how many bytes of a stream the peer takes (section 6.5.2)."""
    return frame(4, 0, 0, b"" if window is None else struct.pack(">HI", 4, window))


def headers(path: str, stream: int = 1) -> bytes:
    """Return the HEADERS that begin a call, whose request is still to come."""
    sent = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    return frame(HEADERS, 4, stream, b"".join(_header(name, value) for name, value in sent))


def message(serialised: bytes, stream: int = 1) -> bytes:
    """Return a call's request, the last of its stream."""
    return frame(0, 1, stream, b"\x00" + struct.pack(">I", len(serialised)) + serialised)


async def frame_kind(reader: asyncio.StreamReader) -> int:
    """Read a frame; return of what kind it is."""
    start = await reader.readexactly(9)
    await reader.readexactly(int.from_bytes(start[:3]))
    return start[3]


def _header(name: bytes, value: bytes) -> bytes:
    """Return a header as HPACK's literal without indexing (RFC 7541, section 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
