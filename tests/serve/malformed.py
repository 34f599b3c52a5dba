"""Requests that are wrong in some way, as bytes for a socket: each must be answered by 4xx."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from tests.serve.conftest import form, picture

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # of a file that is left
OCTETS = "application/octet-stream"
SEED = 0


def post(
    body: bytes, kind: str | None = OCTETS, *, length: str | None = "", extra: str = ""
) -> bytes:
    """Return a POST; length "" is the true one, None none."""
    lines = ["POST /predict HTTP/1.1", "Host: localhost", "Connection: close"]
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    return ("\r\n".join(lines) + f"\r\n{extra}\r\n").encode("latin-1") + body


def png(width: int, height: int, *, mode: int = 2) -> bytes:
    """Return a PNG that claims a size and has hardly a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def texts() -> Iterator[tuple[str, bytes]]:
    """Yield contents that are no pictures."""
    samples: dict[str, bytes] = {
        "text": b"hello, this is a text " * 9,
        "html": b"<!doctype html><html></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "pdf": b"%PDF-1.7\n",
        "zip": b"PK\x03\x04" + b"\0" * 99,
        "gzip": b"\x1f\x8b\x08" + b"\0" * 99,
        "elf": b"\x7fELF" + b"\0" * 99,
        "json": b'{"image": "data:image/png;base64,iVBORw0KGgo="}',
        "base64": b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoH",
        "nul": b"\0" * 1000,
        "ff": b"\xff" * 1000,
        "one": b"\xff",
        "path": b"/etc/passwd",
        "psd": b"8BPS\0\1" + b"\0" * 99,
        "raw": b"II*\0\x08\0\0\0\0\0" + b"\0" * 99,
        "mp4": b"\0\0\0\x18ftypmp42" + b"\0" * 99,
        "heic": b"\0\0\0\x18ftypheic" + b"\0" * 99,
        "ico": b"\0\0\1\0\1\0" + b"\0" * 99,
    }
    yield from samples.items()


def bodies() -> Iterator[tuple[str, bytes]]:
    """Yield raw requests whose body is no picture that can be read."""
    yield "empty", post(b"")
    yield "no length, no body", post(b"", length=None)
    for name, content in texts():
        yield f"{name}", post(content)
        yield f"{name} as image/jpeg", post(content, "image/jpeg")
    rng = random.Random(SEED)
    for kind in FORMATS:
        whole = picture(kind, size=(64, 48))
        for share in SHARES:
            yield f"{kind} cut at {share}", post(whole[: int(len(whole) * share)])
        for number in range(6):  # the head stays, so that the reader is the right one
            noise = bytes(rng.randrange(256) for _ in range(200))
            yield f"{kind} with noise {number}", post(whole[: 12 + number] + noise)
        yield f"{kind} of zeros", post(whole[:16] + b"\0" * 400)
    for width, height in (
        (1, 0),
        (0, 1),
        (0, 0),
        (60_000, 60_000),
        (2**31 - 1, 1),
        (2**31 - 1,) * 2,
    ):
        for mode in (0, 2, 3, 6):
            yield f"png {width}x{height} mode {mode}", post(png(width, height, mode=mode))
    for number in range(80):
        noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
        yield f"random {number}", post(noise)


def types() -> Iterator[tuple[str, bytes]]:
    """Yield requests whose headers say what is not taken."""
    good = picture()
    for kind in (
        *("text/plain", "application/json", "text/html", "multipart/mixed; boundary=x", "image"),
        *("video/mp4", "application/zip", "application/x-ndjson", "multipart/related", "\xff/\xfe"),
        *("text/plain; charset=utf-8", ";", "a" * 3000, "multipart", "audio/x", "*/*", "/"),
    ):
        if kind == ";":
            continue
        yield f"type {kind[:20]!r}", post(good, kind)
    for encoding in ("gzip", "br", "deflate", "identity, gzip", "zstd", "x" * 500):
        yield f"encoding {encoding[:10]}", post(good, extra=f"Content-Encoding: {encoding}\r\n")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE", "LINK"):
        yield f"method {method}", post(good).replace(b"POST", method.encode(), 1)
    for path in (
        "/predict/",
        "/Predict",
        "/nothing",
        "/predict%00",
        "/..%2fetc/passwd",
        "//predict",
    ):
        yield f"path {path}", post(good).replace(b"/predict", path.encode(), 1)
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.2", "[::2]", "localhost:x"):
        yield f"host {host}", post(good).replace(b"localhost", host.encode(), 1)


def forms() -> Iterator[tuple[str, bytes]]:
    """Yield damaged multipart requests."""
    whole, kind = form([("a.png", picture()), ("b.png", picture(level=200))])
    for at in sorted({*range(0, 120, 4), len(whole) - 60, len(whole) - 12, len(whole) - 6}):
        yield f"form cut at {at}", post(whole[:at], kind)
    for boundary in (
        "",
        "other",
        "b0un",
        "b0undd",
        "x" * 71,
        "x" * 5000,
        "\xff\xfe",
        '"',
        "b0und--",
    ):
        yield (
            f"boundary {boundary[:8]!r}",
            post(whole, f"multipart/form-data; boundary={boundary}"),
        )
    yield "no boundary", post(whole, "multipart/form-data")
    yield "boundary twice", post(whole, "multipart/form-data; boundary=a; boundary=z")
    yield "no part", post(b"--b0und--\r\n", kind)
    yield "only newlines", post(b"\r\n" * 500, kind)
    yield "text", post(b"hello", kind)
    yield "raw picture", post(picture(), kind)
    for count in (65, 70, 1000):
        yield f"{count} parts", post(form([("a", b"x")] * count)[0], kind)
    for name, header in {
        "long header": b"X: " + b"y" * 5000,
        "long name": b"X" * 5000 + b": y",
        "nul in name": b"X\0Y: z",
        "space in name": b"X Y: z",
        "colon first": b": z",
        "no colon": b"just words",
        "bytes": b"\xff\xfe: z",
        "many": b"\r\n".join(b"X%d: y" % n for n in range(40)),
    }.items():
        part = b"--b0und\r\n" + header + b"\r\n\r\npicture\r\n--b0und--\r\n"
        yield f"part with {name}", post(part, kind)
    for at in range(9):  # of the first boundary and the line's end
        for byte in (0, 10, 32, 45, 65, 255):
            if whole[at] != byte:
                damaged = whole[:at] + bytes([byte]) + whole[at + 1 :]
                yield f"first boundary with {byte} at {at}", post(damaged, kind)
    for count in range(1, 9):
        yield f"{count} bytes before the first boundary", post(b"x" * count + whole, kind)


def framing() -> Iterator[tuple[str, bytes]]:
    """Yield requests that are no HTTP, or lie about their length."""
    good = picture()
    for length in ("-1", "1e3", "0x10", "+5", "abc", " ", "5, 6", "9" * 30, "1.5", "٣", "1_0"):
        yield f"length {length[:6]!r}", post(good, length=length.encode().decode("latin-1"))
    yield "two lengths", post(good, extra="Content-Length: 3\r\n")
    for size in (64 * 2**20 + 1, 2**31, 2**40, 2**63, 10**18):
        yield f"length of {size}", post(b"", length=str(size))
    chunked = "Transfer-Encoding: chunked\r\n"
    for name, body in {
        "no number": b"zz\r\nabc\r\n0\r\n\r\n",
        "negative": b"-5\r\nabc\r\n0\r\n\r\n",
        "hex prefix": b"0x5\r\nabcde\r\n0\r\n\r\n",
        "too long a number": b"f" * 40 + b"\r\n",
        "no newline": b"5abcde0",
        "short": b"5\r\nabcdefgh\r\n0\r\n\r\n",
        "spaces": b" 5 \r\nabcde\r\n0\r\n\r\n",
        "nul": b"\0\r\n\r\n",
        "empty": b"0\r\n\r\n",
        "extension": b"5;" + b"x" * 30_000 + b"\r\nabcde\r\n0\r\n\r\n",
        "bad trailer": b"5\r\nabcde\r\n0\r\nbad trailer\r\n\r\n",
        "text": b"5\r\nhello\r\n0\r\n\r\n",
    }.items():
        yield f"chunks: {name}", post(body, length=None, extra=chunked)
    for coding in ("gzip", "chunked, chunked", "gzip, chunked", "identity", "x", "chunked;q=1"):
        extra = f"Transfer-Encoding: {coding}\r\n"
        yield f"coding {coding}", post(b"0\r\n\r\n", length=None, extra=extra)
    for line in (
        *(
            "",
            "\r\n\r\n",
            "POST",
            "POST /predict",
            "POST  /predict HTTP/1.1",
            "POST /predict HTTP/9.9",
        ),
        *(
            "POST /pre dict HTTP/1.1",
            "P\0ST /predict HTTP/1.1",
            "POST /predict HTTPS/1.1",
            "\x16\x03\x01",
        ),
        *(
            "PRI * HTTP/2.0",
            "GET http://evil.example/ HTTP/1.1",
            "CONNECT a:1 HTTP/1.1",
            "POST * HTTP/1.1",
        ),
        *("POST /" + "a" * 40_000 + " HTTP/1.1", "\x80\x80 / HTTP/1.1", "POST /predict\t HTTP/1.1"),
        "POST /\xe4 HTTP/1.1",
    ):
        rest = "\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"
        yield f"line {line[:20]!r}", (line + rest).encode("latin-1")
    for name, extra in {
        "two hosts": "Host: localhost\r\n",
        "huge header": "X: " + "y" * 100_000 + "\r\n",
        "many headers": "".join(f"X{n}: y\r\n" for n in range(5000)),
        "header without a colon": "nonsense\r\n",
        "header with nul": "X: a\0b\r\n",
        "header with a bare return": "X: a\rb\r\n",
        "folded header": " folded\r\n",
        "space before the colon": "X : y\r\n",
        "bytes in a name": "\xff\xfe: y\r\n",
        "empty name": ": y\r\n",
        "unknown expectation": "X\r\nExpect: a miracle\r\n",
        "both lengths": "Transfer-Encoding: chunked\r\n",
    }.items():
        yield name, post(b"not a picture", extra=extra)
    yield "no host", post(b"not a picture").replace(b"Host: localhost\r\n", b"")


def names() -> Iterator[tuple[str, bytes]]:
    """Yield pictures that cannot be read, under names that are hard to bear."""
    for name in (
        *(
            "\xff\xfe",
            "a\0b",
            "../../etc/passwd",
            "C:\\x",
            "\x1b[2J",
            "=cmd()",
            "\u202e",
            "n" * 4000,
        ),
        *('"', "'", "<script>", "%00", "%s%n", "a;b=c", "\\", "\t", "é", "💥" * 100),
    ):
        raw = name.encode("utf-8")
        disposition = b'Content-Disposition: attachment; filename="' + raw + b'"\r\n'
        head, _, body = post(b"not a picture").partition(b"\r\n\r\n")
        yield f"name {name[:8]!r}", head + b"\r\n" + disposition + b"\r\n" + body


def corpus() -> list[tuple[str, bytes]]:
    """Return all of them, always the same."""
    return [
        (f"{group.__name__}: {name}", data)
        for group in (bodies, types, forms, framing, names)
        for name, data in group()
    ]
