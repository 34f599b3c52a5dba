"""Plans without an engine: a header as TensorRT writes it, and a network's name."""

from __future__ import annotations


def header(size: int, magic: bytes = b"vtrt", version: bytes = bytes((1, 7, 1, 116))) -> bytes:
    """Return the first 40 bytes of a plan, as TensorRT-RTX 1.7 writes them."""
    words = (0).to_bytes(4, "little"), (2).to_bytes(8, "little"), size.to_bytes(8, "little")
    return magic + b"".join(words) + version + magic + bytes(8)


def plan_bytes(name: str, magic: bytes = b"vtrt", version: bytes = bytes((1, 7, 1, 116))) -> bytes:
    rest = b"\x00\x01" * 300 + name.encode() + bytes(range(256)) * 40
    return header(40 + len(rest), magic, version) + rest
