"""Whether a sound or video file was cut short: the sizes that it promises against its own size.

Decoders take what is there and say nothing, so the containers are walked here: their headers say
where the samples and pictures end. Sizes that are unknown, as programs that write to a pipe leave
them, promise nothing: such files are read to their end.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dataset._limits import check_cost, naming
from utils.errors import BadInput

UNKNOWN = 0x7FFFF000  # a 32-bit size from here on is a placeholder, as 0 is
ATOMS = (b"ftyp", b"free", b"skip", b"wide", b"uuid", b"moov", b"moof", b"mdat", b"mfra", b"sidx")
ATOMS += (b"styp", b"meta", b"udta", b"pnot", b"emsg", b"ssix", b"prft", b"pdin")
SEGMENT = 0x18538067  # of Matroska: all that follows its head
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_whole(path: Path) -> None:
    """Raises BadInput for a file of which the end is missing, or that cannot be opened.

    Of MPEG program and transport streams, of a live recording as Matroska and of fragmented MP4
    only a cut inside a packet, cluster or fragment shows: they do not say how many there are.
    """
    with naming(path), open(path, "rb") as file:
        size = os.path.getsize(path)
        start = file.read(12)
        for signature, promised_bytes in CONTAINERS.items():
            if re.match(signature, start, re.S):
                promised = promised_bytes(file, size)
                break
        else:
            return
    if promised > size:
        raise BadInput(f"{path}: truncated, {size} of {promised} bytes")


def numbers(file: BinaryIO, position: int, form: str) -> tuple:
    """What stands at `position`, by `struct`'s format; zeros stand for what is not there."""
    file.seek(position)
    length = struct.calcsize(form)
    return struct.unpack(form, file.read(length).ljust(length, b"\0"))


def samples_of(file: BinaryIO, size: int) -> tuple[int, int | None]:
    """(first byte, bytes or None where unknown) of the samples of a WAV or RF64 file.

    Where it has none, they begin behind its end.
    """
    form = ">4sI4s" if numbers(file, 0, "4s")[0] == b"RIFX" else "<4sI4s"
    position, large = 12, 0
    while position + 8 <= size:
        name, length, content = numbers(file, position, form)
        position += 8
        if name == b"ds64":
            _, large = numbers(file, position, "<QQ")
        if name == b"data":
            if length == 0xFFFFFFFF and 0 < large < 2**63:
                return position, large
            if length == 0 and content in (b"LIST", b"fact", b"PEAK", b"bext", b"id3 "):
                return position, 0
            return position, length if 0 < length < UNKNOWN else None
        position += length + length % 2
    return position + 1, 0


def wav(file: BinaryIO, size: int) -> int:
    """The end of the samples."""
    first, length = samples_of(file, size)
    return first + (length or 0)


def avi(file: BinaryIO, size: int) -> int:
    """The end of the last list of pictures and sound, and of the last piece in one; the index
    behind them may be missing."""
    position, promised = 0, 0
    while position + 8 <= size:
        name, length, kind = numbers(file, position, "<4sI4s")
        if name == b"RIFF" or (name == b"LIST" and kind in (b"movi", b"rec ")):
            if kind == b"movi" and 0 < length < UNKNOWN:
                promised = position + 8 + length
            position += 12  # what is in it
            continue
        if name[:2].isdigit():
            promised = max(promised, position + 8 + length)
        position += 8 + length + length % 2
    return promised or size + 1


def with_size(path: Path) -> Path | BinaryIO:
    """A WAV file whose samples are of unknown size, with the size that is there: libsndfile takes
    some placeholders for no sound. Any other file as it is."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(12)[8:] != b"WAVE":
            return path
        first, length = samples_of(file, size)
        if length is not None or size > UNKNOWN:
            return path
        check_cost(bytes=size)
        file.seek(0)
        content = bytearray(file.read())
    content[first - 4 : first] = struct.pack("<I", size - first)
    if content[:4] == b"RF64":
        content[:4] = b"RIFF"
        content = content.replace(b"ds64", b"JUNK", 1)
    return io.BytesIO(content)


def ogg_checksum(page: bytes) -> bytes:
    """CRC-32 of a page, the highest bit first, where zlib's has the lowest first."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(MIRRORED)


def ogg(file: BinaryIO, size: int) -> int:
    """The last page says that it is the last, and how long it is.

    Raises BadInput for a page that is not as its checksum: decoders leave it out without a word.
    """
    position, is_last = 0, False
    while position < size:
        name, _, flags = numbers(file, position, "4sBB")
        if name != b"OggS":
            break
        (segments,) = numbers(file, position + 26, "B")
        length = 27 + segments + sum(numbers(file, position + 27, f"{segments}B"))
        file.seek(position)
        page = file.read(length)
        if len(page) == length and ogg_checksum(page) != page[22:26]:
            raise BadInput("damaged, a page is not as its checksum")
        position += length
        is_last = bool(flags & 4)
    return position if is_last else max(position, size + 1)


def mp4(file: BinaryIO, size: int) -> int:
    """The end of the last box of media or of their index; what is no box ends the walk."""
    position, promised = 0, 0
    while position + 8 <= size:
        length, name, large = numbers(file, position, ">I4sQ")
        if name not in ATOMS or length == 0:  # 0: to the end of the file
            break
        length = large if length == 1 else length
        if length < 8:
            break
        position += length
        if name in (b"moov", b"moof", b"mdat"):
            promised = position
    return promised


def element(file: BinaryIO, position: int) -> tuple[int, int, int | None]:
    """(id, first byte of the content, bytes of it or None) of an element of Matroska."""
    (first,) = numbers(file, position, "B")
    width = 9 - first.bit_length()
    content = numbers(file, position, "16s")[0]
    name, coded = int.from_bytes(content[:width], "big"), content[width]
    digits = 9 - coded.bit_length()
    coded_length = int.from_bytes(content[width : width + digits], "big")
    length = coded_length & (1 << 7 * digits) - 1
    unknown = length == (1 << 7 * digits) - 1 or not coded
    return name, position + width + digits, None if unknown else length


def matroska(file: BinaryIO, size: int) -> int:
    """The end of the segment; where its size is unknown, of what is in it."""
    position = 0
    while position + 2 <= size:
        name, start, length = element(file, position)
        if name == SEGMENT and length is not None:
            return start + length
        position = start if length is None else start + length
    return position


def flv(file: BinaryIO, size: int) -> int:
    """The end of the last tag; where that is whole, whether the tags reach the duration.

    The duration is of the longest of sound and picture, and ends after the last tag's time.
    """
    (position,) = numbers(file, 5, ">I")
    last_ms, seconds = 0, 0.0
    while position + 15 <= size:  # the size of the tag before, the head of this one
        kind, length, time_ms, higher = numbers(file, position + 4, ">s3s3sB")
        length = int.from_bytes(length, "big")
        if kind == b"\x12":  # a script: the duration is a double behind its name
            file.seek(position + 15)
            if match := re.search(rb"duration\0(.{8})", file.read(length), re.S):
                (seconds,) = struct.unpack(">d", match[1])
        elif kind in (b"\x08", b"\x09"):
            last_ms = max(last_ms, int.from_bytes(time_ms, "big") + (higher << 24))
        else:
            return 0
        position += 15 + length
    is_short = last_ms / 1000 < seconds - max(0.5, seconds / 10)
    return max(position, size + 1) if is_short else position


def program_stream(file: BinaryIO, size: int) -> int:
    """The end of the last packet."""
    position = 0
    while position + 6 <= size:
        start, stream, length = numbers(file, position, ">3sBH")
        if start != b"\0\0\1" or stream < 0xB9:
            break
        if stream == 0xBA:  # the head of a pack: MPEG-2's, with stuffing, or MPEG-1's
            is_second, stuffing = numbers(file, position + 4, "B8xB")
            position += 14 + stuffing % 8 if is_second >> 6 == 1 else 12
        else:
            position += 4 if stream == 0xB9 else 6 + length
    return position


def transport_stream(file: BinaryIO, size: int) -> int:
    """The end of the last packet, if packets are of the usual 188 bytes."""
    return -(-size // 188) * 188 if numbers(file, 188, "s") == (b"G",) else 0


CONTAINERS: dict[bytes, Callable[[BinaryIO, int], int]] = {  # first bytes -> bytes it promises
    rb"(RIFF|RIFX|RF64).{4}WAVE": wav,
    rb"RIFF.{4}AVI ": avi,
    rb"OggS": ogg,
    rb".{4}(ftyp|moov|mdat|free|skip|wide)": mp4,
    rb"\x1A\x45\xDF\xA3": matroska,
    rb"FLV": flv,
    rb"\x00\x00\x01\xBA": program_stream,
    rb"G": transport_stream,
}
