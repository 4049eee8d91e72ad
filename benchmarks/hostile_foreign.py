"""Files under a video's name that want their reader to open another file or an address, and the canaries they name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from hostile_damage import boxes
from hostile_lies import box
from hostile_masters import X264, Masters
from hostile_reel import encode, reel
from hostile_truth import Item, Made, written

KIND = "playlists, scripts, references"
FOREIGN = range(3000, 3024)  # numbers of the canary's frames: in no other file
IN_ACCESS, IN_OPEN = 0x1, 0x20


class Canary:
    """A video that nobody is to open, at several names beside each other, and a server that nobody is to ask."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.requests = folder, []
        self._files = [folder / f"canary.{suffix}" for suffix in ("ts", "mp4", "mkv", "flv", "wmv", "mpg")]
        for path in self._files:
            if not path.exists():
                encode(path, reel(FOREIGN), *(X264 if path.suffix not in (".wmv", ".mpg") else ()), "-threads", "1")
        self._files += [folder / f"canary{number:03d}.jpg" for number in range(3)]
        for path in self._files[-3:]:
            encode(path, reel(FOREIGN[:1]), "-frames:v", "1", "-update", "1")
        requests, served = self.requests, {path.name: path.read_bytes() for path in self._files}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                data = served.get(self.path.rpartition("/")[2], b"")
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK)
        for path in self._files:
            if self._watch < 0 or libc.inotify_add_watch(self._watch, os.fsencode(path), IN_OPEN | IN_ACCESS) < 0:
                raise OSError(ctypes.get_errno(), "cannot watch the canary")

    def touched(self) -> list[str]:
        """What was opened or asked for since the last call."""
        found, self.requests[:] = list(self.requests), []
        while select.select([self._watch], [], [], 0)[0]:
            events = os.read(self._watch, 65536)
            found += ["file"] * (len(events) // struct.calcsize("iIII"))
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        os.close(self._watch)


class Bait(NamedTuple):
    """A file's name and what is in it; {file}, {folder} and {http} of the text are the canary's."""

    name: str
    text: str
    suffix: str = "ts"  # of the canary that it names


M3U8 = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
MASTER = '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{}\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{}"\n'
KEY = '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n'
MAP = '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MAP:URI="{}"\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n'
MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" '
    'minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="100000" width="160" height="96"><BaseURL>{}</BaseURL>'
    '<SegmentList duration="1"><SegmentURL media="{}"/></SegmentList></Representation></AdaptationSet></Period></MPD>'
)
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
ASX = '<ASX version="3.0"><ENTRY><REF HREF="{}"/></ENTRY></ASX>'
SMIL = '<?xml version="1.0"?><smil><body><video src="{}"/></body></smil>'
XSPF = (
    '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track><location>{}</location>'
)
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{}"/></svg>'
)
HTML = '<!doctype html><video src="{}"></video><meta http-equiv="refresh" content="0;url={}"><iframe src="{}"></iframe>'
IMF = '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{}</Id>'
ISM = '<?xml version="1.0"?><SmoothStreamingMedia MajorVersion="2" Duration="1"><StreamIndex Type="video" Url="{}"/>'
AVISYNTH = 'FFVideoSource("{}")\n'
IDX = "# VobSub index file, v7 (do not modify this line!)\nsize: 160x96\nid: en, index: 0\n"


def baits(canary: Canary) -> Iterator[Item]:
    """All of them, each naming the canary's files or server."""
    found = [
        *(Bait(f"hls {way}.{suffix}", M3U8.replace("{}", way_)) for suffix in ("mp4", "ts", "m3u8")
          for way, way_ in (("file", "{file}"), ("address", "{http}"), ("file url", "file://{file}"))),
        *(Bait(f"hls {word}.mkv", M3U8.replace("{}", way)) for word, way in (
            ("concat", "concat:{file}|{file}"), ("subfile", "subfile,,start,0,end,9000,,:{file}"),
            ("crypto", "crypto:{file}"), ("data", "data:video/mp2t;base64,R0AAEA=="), ("cache", "cache:{http}"),
            ("async", "async:{file}"), ("http proxy", "httpproxy:{http}"), ("tcp", "tcp://127.0.0.1:{port}"),
            ("relative", "../canary/{name}"), ("gopher", "gopher://127.0.0.1:{port}/x"))),
        Bait("hls master.mp4", MASTER.replace("{}", "{http}")),
        Bait("hls master file.mov", MASTER.replace("{}", "{file}")),
        Bait("hls key.mp4", KEY.replace("{}", "{http}")),
        Bait("hls key file.mp4", KEY.replace("{}", "{file}")),
        Bait("hls map.mp4", MAP.replace("{}", "{file}"), "mp4"),
        Bait("hls with a mark.mp4", "\ufeff" + M3U8.replace("{}", "{file}")),
        Bait("list.m3u.avi", "#EXTM3U\n#EXTINF:1,x\n{file}\n{http}\n"),
        Bait("list.pls.mp4", "[playlist]\nFile1={http}\nNumberOfEntries=1\nVersion=2\n"),
        Bait("list.xspf.mp4", XSPF.replace("{}", "{http}")),
        Bait("dash.mp4", MPD.replace("{}", "{http}"), "mp4"),
        Bait("dash file.mkv", MPD.replace("{}", "{file}"), "mp4"),
        Bait("dash.mpd", MPD.replace("{}", "{http}"), "mp4"),
        Bait("session.mp4", SDP),
        Bait("session.sdp", SDP.replace("RTP/AVP", "TCP")),
        *(Bait(f"concat {word}.{suffix}", f"ffconcat version 1.0\nfile {way}\n") for suffix in ("mp4", "avi")
          for word, way in (("file", "'{file}'"), ("address", "'{http}'"), ("relative", "'../canary/{name}'"))),
        Bait("concat without a head.txt.mp4", "file '{file}'\nfile '{http}'\n"),
        Bait("concat options.mkv", "ffconcat version 1.0\nfile '{file}'\noption protocol_whitelist all\n"),
        Bait("redirect.asx.wmv", ASX.replace("{}", "{http}"), "wmv"),
        Bait("reference.asf.wmv", "[Reference]\nRef1={http}\nRef2={file}\n", "wmv"),
        Bait("ref.asf", "ASF {http}\n", "wmv"),
        Bait("rtsptext.mov", "RTSPtext\r\n{http}\r\n"),
        Bait("smiltext.mov", "SMILtext" + SMIL.replace("{}", "{http}")),
        Bait("smil.mp4", SMIL.replace("{}", "{http}")),
        Bait("shortcut.url.mp4", "[InternetShortcut]\nURL={http}\n"),
        Bait("picture.svg.mp4", SVG.replace("{}", "{http}")),
        Bait("page.html.mp4", HTML.replace("{}", "{http}")),
        Bait("composition.xml.mxf", IMF.replace("{}", "{http}")),
        Bait("smooth.ism.mp4", ISM.replace("{}", "{http}")),
        Bait("script.avs", AVISYNTH.replace("{}", "{file}"), "mp4"),
        Bait("script.avs.avi", AVISYNTH.replace("{}", "{file}"), "mp4"),
        Bait("script.vpy", "import os; os.open('{file}', 0)\n", "mp4"),
        Bait("subtitles.idx", IDX),
        Bait("sheet.cue.mp4", 'FILE "{file}" BINARY\n  TRACK 01 MODE1/2352\n    INDEX 01 00:00:00\n'),
        Bait("metadata.mp4", ";FFMETADATA1\ntitle={http}\n[STREAM]\n"),
        Bait("filter.mp4", "movie='{file}'\n", "mp4"),
    ]  # fmt: skip
    for bait in found:
        path = canary.folder / f"canary.{bait.suffix}"
        words = {"{file}": str(path), "{name}": path.name, "{port}": canary.address.rpartition(":")[2]}
        # Every file asks for an address of its own: the server's log says who asked.
        text = bait.text.replace("{http}", f"{canary.address}/{bait.name.replace(' ', '_')}/{path.name}")
        for word, value in words.items():
            text = text.replace(word, value)
        yield written(Made(f"foreign/{bait.name}", KIND, "", "failed", note=bait.suffix), text.encode())


def references(canary: Canary, masters: Masters) -> Iterator[Item]:
    """Real containers whose tracks lie elsewhere, and names that are patterns or addresses."""
    numbers = tuple(range(60))
    data = masters.data("h264-fast.mp4")
    file, address = canary.folder / "canary.mp4", f"{canary.address}/dref/canary.mp4"
    alias = bytearray(150) + b"".join(
        struct.pack(">HH", kind, len(text)) + text + b"\0" * (len(text) & 1)
        for kind, text in ((2, os.fsencode(file)), (18, os.fsencode(file)), (19, b"/"))
    )
    alias[:6] = b"\0\0\0\0" + struct.pack(">H", len(alias))
    for name, entry in (
        ("address.mp4", box(b"url ", b"\0\0\0\0", address.encode(), b"\0")),
        ("file.mp4", box(b"url ", b"\0\0\0\0", f"file://{file}".encode(), b"\0")),
        ("alias.mov", box(b"alis", b"\0\0\0\0", bytes(alias), b"\xff\xff\0\0")),
        ("name.mp4", box(b"urn ", b"\0\0\0\0", b"canary\0", address.encode(), b"\0")),
    ):
        made = Made(f"foreign/dref {name}", KIND, "h264-fast.mp4", "either", numbers, reference="h264-fast.mp4")
        yield written(made, _with_reference(data, box(b"dref", b"\0\0\0\0\0\0\0\x01", entry)))
    link = box(b"rdrf", b"\0\0\0\0url ", struct.pack(">I", len(address) + 1), address.encode(), b"\0")
    movie = box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", box(b"rmra", box(b"rmda", link)))
    yield written(Made("foreign/reference movie.mov", KIND, "", "failed"), movie)
    for number, name in enumerate((
        "canary%03d.jpg", "canary%03d.png", "file:canary.mp4", "concat:a.mp4|b.mp4", "pipe:0.mp4", "data:,x.mp4",
        "subfile,,start,0,end,0,,:canary.mp4", "http:canary.mp4", "async:canary.ts", "cache:canary.ts", "-i canary.mp4",
        "lavfi:testsrc.mp4", "*.mp4", "canary[0-9].jpg",
    )):  # fmt: skip
        tail = box(b"free", str(number).encode())  # or they would be duplicates
        master = masters.data("h264.mp4")
        made = Made(f"patterns/{name}", "names that are patterns", "h264.mp4", "ok", numbers, True, "h264.mp4")
        yield written(made, master + tail)


def _with_reference(data: bytes, dref: bytes) -> bytes:
    """An mp4, header in front, whose only track's data are said to lie elsewhere; sizes and offsets are kept right."""
    found = {name: (start, end) for name, start, end in boxes(data)}
    start, end = found["dref"]
    grown = len(dref) - (end - start + 8)
    broken = bytearray(data[: start - 8] + dref + data[end:])
    for name in ("moov", "trak", "mdia", "minf", "dinf"):
        place = found[name][0] - 8
        broken[place : place + 4] = struct.pack(">I", struct.unpack_from(">I", broken, place)[0] + grown)
    place = found["stco"][0] + grown + 4
    (count,) = struct.unpack_from(">I", broken, place)
    for index in range(count):
        at = place + 4 + 4 * index
        broken[at : at + 4] = struct.pack(">I", struct.unpack_from(">I", broken, at)[0] + grown)
    return bytes(broken)
