"""The size that a compressed image states, read before a decoder allocates that much memory."""


def image_size(data: bytes) -> tuple[int, int] | None:
    """The size of a JPEG, JPEG-LS or JPEG 2000 image by its own header: (rows, columns); None if it states none.

    Sources: ITU-T T.81 B.2.2 (frame header), ITU-T T.87 C.2.2 (JPEG-LS), ITU-T T.800 A.5.1 (SIZ).
    """
    siz = data.find(b"\xff\x4f\xff\x51")
    if siz >= 0:
        right, bottom, left, top = (int.from_bytes(data[siz + at : siz + at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left
    at = 2
    while data.startswith(b"\xff\xd8") and at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
