"""How large a zip says its directory is, from the last bytes of the file: known before the directory is read.

Source: PKWARE, APPNOTE.TXT 6.3.10, 4.3.14 to 4.3.16.
"""

import struct
from pathlib import Path

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_MOST_COMMENT = 65_535
_IN_ZIP64 = 0xFFFFFFFF


def directory_size(path: Path) -> int:
    """The stated size of the central directory in bytes; 0 where the file has none."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - _END.size - _MOST_COMMENT - _LOCATOR.size)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) - at < _END.size:
            return 0
        stated: int = _END.unpack_from(tail, at)[5]
        before = at - _LOCATOR.size
        if before < 0 or tail[before : before + 4] != b"PK\6\7":
            return stated
        # Python's zipfile believes the larger record whenever there is one
        file.seek(_LOCATOR.unpack_from(tail, before)[2])
        record = file.read(_END64.size)
        if len(record) == _END64.size and record.startswith(b"PK\6\6"):
            return max(int(_END64.unpack(record)[8]), stated if stated != _IN_ZIP64 else 0)
        return stated
