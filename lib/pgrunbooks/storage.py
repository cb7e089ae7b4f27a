"""The files of the lab's relations: sparse, as large as the real ones, and a btree as high as the real one.

The planner takes pages from the size of a file and the height of a btree from its metapage. The layouts are those of
https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/storage/bufpage.h and access/nbtree.h beside it.
"""

from __future__ import annotations

import os
import struct
from itertools import count
from pathlib import Path

BLOCK = 8192
_SEGMENT_PAGES = 131072  # a file of a relation holds at most 1 GiB
_SPECIAL = BLOCK - 16
_LEAF, _ROOT = 1, 2
_META_ROOT = 24 + 8  # behind the page's header, magic number and version: root, level, fast root, fast level


def resize(path: Path, pages: int) -> None:
    """Give a relation's file as many pages; those that are new take no block on the disk."""
    first = path.stat()
    os.truncate(path, min(pages, _SEGMENT_PAGES) * BLOCK)
    for number in count(1):
        segment = path.with_name(f"{path.name}.{number}")
        rest = pages - number * _SEGMENT_PAGES
        if rest > 0:
            segment.touch(mode=0o600)
            os.chown(segment, first.st_uid, first.st_gid)
            os.truncate(segment, min(rest, _SEGMENT_PAGES) * BLOCK)
        elif segment.exists():
            segment.unlink()
        else:
            return


def write_height(path: Path, height: int) -> None:
    """Make an empty btree of that many levels above its leaf: one page a level, the root first, the leaf empty.

    Only for a file that no backend has looked into yet, in a server without page checksums.
    """
    with path.open("r+b") as file:
        file.seek(_META_ROOT)
        file.write(struct.pack("=4I", 1, height, 1, height))
        for block in range(1, height + 2):
            file.seek(block * BLOCK)
            file.write(_page(block, level=height + 1 - block, is_root=block == 1))


def _page(block: int, *, level: int, is_root: bool) -> bytes:
    """Return a page that is alone on its level: a leaf without a tuple, else one downlink to the next block."""
    downlink = b"" if level == 0 else struct.pack("=4H", 0, block + 1, 0, 0x2000 | 8)  # a pivot tuple without keys
    upper = _SPECIAL - len(downlink)
    pointer = struct.pack("=I", upper | 1 << 15 | 8 << 17) if downlink else b""
    head = struct.pack("=QHHHHHHI", 0, 0, 0, 24 + len(pointer), upper, _SPECIAL, BLOCK | 4, 0) + pointer
    flags = (_LEAF if level == 0 else 0) | (_ROOT if is_root else 0)
    return head.ljust(upper, b"\0") + downlink + struct.pack("=3I2H", 0, 0, level, flags, 0)
