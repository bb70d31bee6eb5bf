"""Write small uncompressed ``.sas7bdat`` files; no library of the package can."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

MAGIC = bytes.fromhex("000000000000000000000000c2ea8160b31411cfbd92080009c7318c181f1011")
HEADER, PAGE, PAGE_HEADER, POINTER = 1024, 4096, 40, 24
UTF8, WINDOWS_1252 = 20, 62

Cell = float | str


def missing(code: str) -> float:
    """Return SAS's NaN of a missing code: "" for ``.``, "M" for ``.M``."""
    tag = 0xFE if not code else 0xFF - (ord(code) - ord("A") + 2)  # the tag is the complement
    return struct.unpack(">d", bytes((0xFF, 0xFF, tag, 0, 0, 0, 0, 0)))[0]


def write_sas7bdat(
    path: Path,
    columns: Mapping[str, Sequence[Cell]],
    formats: Mapping[str, str] | None = None,
    encoding: int = UTF8,
) -> None:
    """Write a table; columns of text have the width of their longest cell."""
    codec = {UTF8: "utf-8", WINDOWS_1252: "cp1252"}[encoding]
    packed: dict[str, list[bytes]] = {}
    for name, cells in columns.items():
        if any(isinstance(cell, str) for cell in cells):
            texts = [str(cell).encode(codec) for cell in cells]
            width = max(1, *map(len, texts))
            packed[name] = [text.ljust(width) for text in texts]
        else:
            packed[name] = [struct.pack("<d", cell) for cell in cells]
    widths = {name: len(cells[0]) for name, cells in packed.items()}
    rows = [b"".join(cells) for cells in zip(*packed.values(), strict=True)]

    text = bytearray()

    def reference(word: str) -> bytes:
        start = len(text)
        text.extend(word.encode().ljust(-(-len(word) // 4) * 4, b"\0"))
        return struct.pack("<HHH", 0, 28 + start, len(word))

    names = b"".join(reference(name) + bytes(2) for name in widths)
    offsets = [sum(list(widths.values())[:index]) for index in range(len(widths))]
    attributes = b"".join(
        struct.pack("<QIHBB", offset, width, 4, 1 if packed_as_number(columns[name]) else 2, 0)
        for offset, (name, width) in zip(offsets, widths.items(), strict=True)
    )
    layouts = []
    for name in widths:
        form = (formats or {}).get(name, "")
        layout = bytearray(64)
        layout[:8] = struct.pack("<q", -1026)
        layout[46:52] = reference(form) if form else bytes(6)
        layouts.append(bytes(layout))
    size = bytearray(808)
    size[:8] = struct.pack("<Q", 0xF7F7F7F7)
    per_page = (PAGE - PAGE_HEADER) // len(rows[0])
    size[40:56] = struct.pack("<QQ", len(rows[0]), len(rows))
    size[104:112] = struct.pack("<Q", PAGE)

    def listed(signature: int, body: bytes) -> bytes:
        remainder = 28 + len(body) - 20
        return struct.pack("<qH6x", signature, remainder) + body + bytes(12)

    words = struct.pack("<qH10x8s", -3, 8 + 28 + len(text) - 20, b" " * 8) + bytes(8) + text
    subheaders = [
        words,
        bytes(size),
        struct.pack("<QQQ", 0xF6F6F6F6, len(widths), 0),
        listed(-1, names),
        listed(-4, attributes),
        *layouts,
    ]
    page, pointers = bytearray(PAGE), b""
    end = PAGE
    for subheader in subheaders:
        end -= len(subheader)
        page[end : end + len(subheader)] = subheader
        pointers += struct.pack("<QQBB6x", end, len(subheader), 0, 0)
    page[32:38] = struct.pack("<HHH", 0, len(subheaders), len(subheaders))
    page[PAGE_HEADER : PAGE_HEADER + len(pointers)] = pointers
    assert PAGE_HEADER + len(pointers) <= end, "too many columns for one page"
    pages = [bytes(page)]
    for start in range(0, len(rows), per_page):
        part = rows[start : start + per_page]
        head = bytearray(PAGE_HEADER)
        head[32:38] = struct.pack("<HHH", 0x100, len(part), 0)
        pages.append((bytes(head) + b"".join(part)).ljust(PAGE, b"\0"))
    header = bytearray(HEADER)
    header[:32] = MAGIC
    header[32], header[35], header[37], header[39] = 0x33, 0x22, 1, ord("1")
    header[70] = encoding
    header[84:92] = b"SAS FILE"
    header[92:156] = path.stem.encode().ljust(64)
    header[156:164] = b"DATA    "
    header[196:212] = struct.pack("<IIQ", HEADER, PAGE, len(pages))
    header[220:228] = b"9.0101M0"
    path.write_bytes(bytes(header) + b"".join(pages))


def packed_as_number(cells: Sequence[Cell]) -> bool:
    return not any(isinstance(cell, str) for cell in cells)
