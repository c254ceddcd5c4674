import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from castling.errors import DataError
from castling.untrusted.image_files import (
    FORMATS,
    REFUSED_FORMATS,
    read_image,
)


def refused(path: Path, *expected: str) -> None:
    with pytest.raises(DataError) as caught:
        read_image(path, "RGB", (4, 4), "pets")
    message = str(caught.value)
    assert all(text in message for text in (str(path), *expected)), message
    assert "\n" not in message


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    b"newpath 0 0 moveto 10 10 lineto stroke\nshowpage\n%%EOF\n"
)


def in_dos_header(eps: bytes) -> bytes:
    sizes = [32, len(eps), 0, 0, 0, 0]
    head = b"\xc5\xd0\xd3\xc6" + b"".join(size.to_bytes(4, "little") for size in sizes)
    return head.ljust(32, b"\xff") + eps


def in_iptc(content: bytes) -> bytes:
    def field(record: int, number: int, value: bytes) -> bytes:
        return bytes([0x1C, record, number]) + len(value).to_bytes(2, "big") + value

    head = field(3, 60, b"\x01\x00") + field(3, 20, b"\x0a") + field(3, 30, b"\x0a")
    return head + field(3, 120, b"\x05") + field(8, 10, content)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.JPEG", "x.eps"])
@pytest.mark.parametrize(
    "content", [EPS, in_dos_header(EPS), in_iptc(EPS)], ids=["plain", "DOS", "IPTC"]
)
def test_no_image_runs_a_program(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    for program in ("gs", "gswin32c", "gswin64c", "djpeg"):
        fake = tmp_path / "bin" / program
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f"#!/bin/sh\necho $0 $@ >> {trace}\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, "no readable image")
    assert not trace.exists()
    # What was refused is what Pillow would have had decoded.
    with pytest.raises(OSError), Image.open(path) as image:  # noqa: PT011 - gs leaves no image
        image.load()
    assert trace.read_text().startswith(str(tmp_path / "bin"))


def test_a_format_that_is_refused_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(EPS)
    refused(path, "EPS is not read", "Ghostscript")


def test_every_format_of_pillows_is_read_or_refused_for_a_reason() -> None:
    Image.init()
    assert set(Image.OPEN) <= {*FORMATS, *REFUSED_FORMATS}
    assert not {*FORMATS} & {*REFUSED_FORMATS}


def written_by_pillow() -> list[str]:
    """Return the formats of which this Pillow can make an image; others it can only read."""
    Image.init()
    return [
        kind
        for kind in FORMATS
        if kind in Image.SAVE and (kind != "AVIF" or features.check("avif"))
    ]


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize("kind", written_by_pillow())
def test_an_image_of_any_format_is_read_under_any_name(kind: str, tmp_path: Path) -> None:
    written = io.BytesIO()  # a file's name would give Pillow's SPIDER ideas
    for mode in ("RGB", "L", "1", "P"):
        try:
            Image.new(mode, (16, 16), 200).save(written, format=kind)
        except (OSError, ValueError, KeyError):  # not of this mode
            continue
        break
    path = tmp_path / "x.png"
    path.write_bytes(written.getvalue())
    pixels = read_image(path, "RGB", (8, 4), "pets")
    assert pixels.shape == (8, 4, 3)
    assert np.ptp(pixels, axis=(0, 1)).max() < 8


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "no regular file")
    for device in ("zero", "full", "stdin"):
        (tmp_path / f"{device}.png").symlink_to(f"/dev/{device}")
    refused(tmp_path / "zero.png", "no regular file")
    refused(tmp_path / "full.png", "no regular file")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # the path of a socket must be short
        listener.bind("socket.png")
        os.chdir(here)
        refused(tmp_path / "socket.png", "no regular file")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "empty.png").touch()
    for name in ("gone", "self", "empty"):
        refused(tmp_path / f"{name}.png", "no readable image")
    (tmp_path / "endless.png").symlink_to("/proc/kmsg")  # a regular file, says Linux
    refused(tmp_path / "endless.png", "no readable image")
