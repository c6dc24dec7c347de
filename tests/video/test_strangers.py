"""Files that name other files: only the one given is opened."""

from pathlib import Path

import pytest

from gare_cache.errors import DecodeError
from gare_cache.video import containers
from gare_cache.video.decoding import decode_clip
from tests.tiny import write_video

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n"
SESSION = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video 5004 RTP/AVP 96
a=rtpmap:96 H264/90000
"""
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT4S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1"><BaseURL>{other}</BaseURL></Representation></AdaptationSet>
</Period></MPD>
"""
CONTENT = {
    "concat": "ffconcat version 1.0\nfile {other}\n",
    "hls": PLAYLIST,
    "sdp": SESSION,
    "dash": DASH,
    "picture": "P6 2 2 255\n" + "x" * 12,
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".m3u8"])
@pytest.mark.parametrize("kind", CONTENT)
def test_a_file_that_names_others_is_refused_in_one_line(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    other, path = tmp_path / "other.mp4", tmp_path / f"given{suffix}"
    write_video(other, seed=0)
    path.write_text(CONTENT[kind].format(other=other.name))
    with pytest.raises(DecodeError, match=r"given.* is (not in a supported|damaged or)") as caught:
        decode_clip(path, sampler="segment_centre", max_frames=2)
    assert "\n" not in str(caught.value)


def test_numbered_pictures_are_not_a_video(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"given{number}.ppm").write_text("P6 2 2 255\n" + "x" * 12)
    with pytest.raises(DecodeError, match="cannot be read"):
        decode_clip(tmp_path / "given%d.ppm", sampler="segment_centre", max_frames=2)


def test_no_container_of_the_list_names_other_files() -> None:
    assert not {
        "concat",
        "hls",
        "dash",
        "sdp",
        "image2",
        "webm_dash_manifest",
        "imf",
        "rtsp",
    } & set(containers.CONTAINERS)
