"""The routes of the server: search, files by key, what is refused, what is described."""

import asyncio
import dataclasses
import io
import json
import os
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gare_cache.api import load_run
from gare_cache.errors import CacheError, ConfigError
from gare_cache.manifest.tables import Manifest
from gare_cache.search.gallery import Gallery, GalleryVideo, GalleryVideos
from gare_cache.serving import runs, thumbnails
from gare_cache.serving.access import HEADERS
from gare_cache.serving.app import ENDPOINTS
from gare_cache.serving.catalogue import make_catalogue, video_key
from gare_cache.serving.images import ExampleImages
from gare_cache.serving.refusals import Refusal
from gare_cache.serving.runs import ServedRun, open_runs
from gare_cache.serving.schema import Fault
from gare_cache.serving.thumbnails import MomentThumbnails
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from tests.serving.conftest import INJECTED, INJECTED_NAME, client_of
from tests.tiny import change_params, workspace, write_video

UNKNOWN = "0" * 20
PLAYED = "test0"


def found(client: TestClient, **asked: Any) -> Any:
    response = client.post("/api/search", json=asked)
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    (error,) = response.json().values()
    assert "\n" not in error
    return str(error)


def jpeg(width: int = 40, height: int = 30) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def file_url(client: TestClient, video_id: str = PLAYED) -> str:
    url = client.get(f"/api/videos/{video_key(video_id)}").json()["file"]
    assert url
    return str(url)


def test_the_hits_are_those_of_a_search(client: TestClient, served_project: Path) -> None:
    answer = found(client, query="a blocks", top=5)
    expected = load_run(served_project / "outputs", device="cpu").search("a blocks", top=5)
    assert [hit["video"]["video_id"] for hit in answer["hits"]] == [h.video_id for h in expected]
    for hit, other in zip(answer["hits"], expected, strict=True):
        assert hit["score"] == pytest.approx(other.score, abs=1e-5)
        assert (hit["start"], hit["best_time"], hit["end"]) == (
            other.start,
            other.best_time,
            other.end,
        )
    assert answer["searched"] == 13
    assert answer["notes"][-1] == "1 listed video has no features and cannot be found"


def test_what_is_served(client: TestClient) -> None:
    info = client.get("/api/info").json()
    assert (info["project"], info["videos"], info["failed"]) == ("tiny", 13, 1)
    assert [run["name"] for run in info["runs"]] == ["outputs", "zero-shot"]
    assert info["splits"] == ["train", "val", "test"]
    assert info["folders"] == ["test", "train", "val"]
    assert info["suggestions"]
    assert (info["encodes"], info["encoder_note"], info["examples"]) == (True, "", [])


def test_folders_are_named_below_the_one_that_holds_all() -> None:
    paths = [
        "/home/me/v/a.mp4",
        "/home/me/v/x/b.mp4",
        "/home/me/v/x/y/c.mp4",
        "/home/me/v/xy/d.mp4",
    ]
    videos = [
        GalleryVideo(str(row), row, "test", Path(path), 0.0, None) for row, path in enumerate(paths)
    ]
    cache: Any = SimpleNamespace(folder=Path("cache"))
    gallery = Gallery(cache, GalleryVideos.of(videos), 0)
    captions = pa.table({"video_id": ["0"] * 5, "caption": list("abcde")})
    catalogue = make_catalogue(gallery, Manifest(pa.table({}), captions))
    assert catalogue.folders == ["x", "xy", "x/y"]
    assert [entry.folder for entry in catalogue.by_id.values()] == ["", "x", "x/y", "xy"]
    assert catalogue.below("x") == ["1", "2"]
    assert catalogue.by_id["0"].captions == ["a", "b", "c"]
    shown = catalogue.by_id["1"].shown()
    assert shown.missing == "the file was moved or deleted after it was indexed"


def test_filters_bound_what_is_found(client: TestClient) -> None:
    for field in ("split", "folder"):
        hits = found(client, query="a", **{field: "test"})["hits"]
        assert len(hits) == 3
        assert {hit["video"][field] for hit in hits} == {"test"}
    assert len(found(client, query="a", top=2)["hits"]) == 2
    spans = found(client, query="a", max_seconds=0.1)["hits"]
    assert max(hit["end"] - hit["start"] for hit in spans) <= 0.1 + 1e-9
    longer = found(client, query="a", min_seconds=1.5)["hits"]
    assert min(hit["end"] - hit["start"] for hit in longer) >= 1.5 - 1e-9


def test_more_sentences_and_exclusion_change_the_order(client: TestClient) -> None:
    plain = found(client, query="a", top=13)["hits"]
    for more in ({"also": ["b^3"]}, {"without": ["b^3"]}):
        other = found(client, query="a", top=13, **more)["hits"]
        assert [h["score"] for h in other] != [h["score"] for h in plain]


def test_more_like_a_video_leaves_it_out(client: TestClient) -> None:
    key = found(client, query="a")["hits"][0]["video"]["key"]
    answer = found(client, like=[key], top=50)
    assert answer["searched"] == len(answer["hits"]) == 12
    assert key not in {hit["video"]["key"] for hit in answer["hits"]}


def test_equal_videos_are_folded(served_project: Path, client: TestClient) -> None:
    hits = {hit["video"]["video_id"]: hit for hit in found(client, query="a", top=13)["hits"]}
    pair = sorted((hits["train0"], hits["train1"]), key=lambda hit: hit["rank"])
    assert pair[0]["same_as"] is None
    assert pair[1]["same_as"] == pair[0]["rank"]
    with client_of(served_project, fold_above=1.5) as other:
        assert {hit["same_as"] for hit in found(other, query="a", top=13)["hits"]} == {None}


def test_an_example_image(client: TestClient) -> None:
    response = client.post("/api/examples", content=jpeg())
    assert response.status_code == 201
    kept = response.json()
    assert (kept["width"], kept["height"]) == (40, 30)
    assert len(found(client, images=[kept["key"]])["hits"]) == 13


def test_images_that_are_none(client: TestClient) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    for content in (b"", b"no image", jpeg()[:300], postscript):
        said = refused(client.post("/api/examples", content=content), 415)
        assert said.startswith("the file cannot be read as an image")
    gone = refused(client.post("/api/search", json={"images": [UNKNOWN]}), 404)
    assert gone == "the example image is not kept any more; give it again"


def test_an_image_of_too_many_pixels() -> None:
    with pytest.raises(Refusal, match=r"40 x 30 pixels; the limit is 1,000 pixels"):
        ExampleImages(1000).add(jpeg())


def test_old_images_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gare_cache.serving.images._MOST_KEPT", 2)
    images = ExampleImages(10_000)
    keys = [images.add(jpeg()).key for _ in range(3)]
    folder = images.path(keys[2]).parent
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(Refusal):
        images.path(keys[0])
    images.close()
    assert not folder.exists()


def test_two_runs_of_one_query(client: TestClient) -> None:
    first, second = (found(client, query="a", run=run) for run in ("outputs", "zero-shot"))
    assert (first["run"], second["run"]) == ("outputs", "zero-shot")
    assert first["hits"][0]["score"] != second["hits"][0]["score"]
    said = refused(client.post("/api/search", json={"query": "a", "run": "x"}), 422)
    assert said == "there is no run of this name; known: outputs, zero-shot"


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({}, 422, "the query is empty; give a sentence"),
        ({"query": "  "}, 422, "the query is empty"),
        ({"query": "a" * 1001}, 422, "query: String should have at most 1000 characters"),
        ({"query": "a^-1"}, 422, "the weight '-1' in the query must be a positive number"),
        ({"query": "a", "split": "tset"}, 422, "unknown split 'tset'; did you mean 'test'?"),
        ({"query": "a", "folder": "../.."}, 422, "unknown folder '../..'; known: test"),
        ({"query": "a", "folder": "/etc"}, 422, "unknown folder '/etc'"),
        ({"query": "a", "top": 0}, 422, "top: Input should be greater than or equal to 1"),
        ({"query": "a", "top": 201}, 422, "top: Input should be less than or equal to 200"),
        ({"query": "a", "min_seconds": -1}, 422, "min_seconds: Input should be greater"),
        (
            {"query": "a", "min_seconds": 3, "max_seconds": 2},
            422,
            "the longest span, 2.0 s, is shorter than the shortest, 3 s",
        ),
        ({"query": "a", "paths": ["/etc/passwd"]}, 422, "paths: Extra inputs are not permitted"),
        ({"like": ["../../etc/passwd"]}, 422, "like.0: String should match pattern"),
        ({"like": [UNKNOWN]}, 404, "the example video is not in this gallery any more"),
    ],
)
def test_what_cannot_be_searched(client: TestClient, asked: Any, status: int, said: str) -> None:
    assert refused(client.post("/api/search", json=asked), status).startswith(said)


def test_bodies_that_are_no_request(client: TestClient) -> None:
    json_type = {"Content-Type": "application/json"}
    for content in (b"", b"{", b"[]", b"\xff", b"[" * 50_000):
        refused(client.post("/api/search", content=content, headers=json_type), 422)
    wrong = client.post("/api/search", content=b'{"query": "a"}')
    assert "must be application/json" in refused(wrong, 415)
    long = client.post("/api/search", content=b" " * 70_000, headers=json_type)
    assert refused(long, 413) == "the request has more than 65,536 bytes, the limit"
    refused(client.post("/api/examples", content=b"x" * (10 * 2**20 + 1)), 413)


def test_no_answer_names_a_path_of_the_machine(client: TestClient, served_project: Path) -> None:
    key = video_key(PLAYED)
    answers = [
        client.get("/"),
        client.get("/api/info"),
        client.get(f"/api/videos/{key}"),
        client.get(f"/api/videos/{UNKNOWN}"),
        client.post("/api/search", json={"query": "a", "top": 50}),
        client.post("/api/search", json={"query": "a", "folder": str(served_project)}),
        client.post("/api/examples", content=b"none"),
    ]
    for answer in answers[:-2]:
        assert str(served_project) not in answer.text
        assert str(served_project.parent) not in str(answer.headers)
    assert "/" not in answers[-1].json()["error"]


def test_hostile_words_come_as_data(client: TestClient) -> None:
    video = client.get(f"/api/videos/{video_key(INJECTED_NAME)}").json()
    assert INJECTED in video["captions"]
    assert video["name"] == f"{INJECTED_NAME}.mp4"
    assert client.get(video["file"]).headers["content-type"] == "video/mp4"
    page = (Path(__file__).parents[2] / "gare_cache/serving/pages/page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page)


def test_thumbnails(client: TestClient, served_project: Path) -> None:
    for hit in found(client, query="a", top=13)["hits"]:
        response = client.get(hit["video"]["thumbnail"])
        assert response.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(response.content)).format == "JPEG"


def block(content: bytes) -> float:
    """Where the middle of the red block stands, from 0 to 1."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    red = pixels[..., 0] > pixels[..., 1] + 80
    return float(np.flatnonzero(red.any(axis=0)).mean() / pixels.shape[1])


def test_a_thumbnail_shows_the_moment(client: TestClient) -> None:
    """It was the middle frame of the video, whatever the moment."""
    key = video_key(PLAYED)
    for hit in found(client, query="a", top=13)["hits"]:
        url = hit["video"]["thumbnail"]
        assert url == f"/api/videos/{hit['video']['key']}/thumbnail?at={hit['best_time']:.1f}"
    assert client.get(f"/api/videos/{key}").json()["thumbnail"] == f"/api/videos/{key}/thumbnail"
    for at, x in [("0", 8), ("1.04", 28), ("1.0", 28), ("3.9", 86)]:
        response = client.get(f"/api/videos/{key}/thumbnail?at={at}")
        assert response.headers["content-type"] == "image/jpeg"
        assert response.headers["cache-control"] == "private, max-age=300"
        assert block(response.content) == pytest.approx(x / 96, abs=0.03)
    middle = client.get(f"/api/videos/{key}/thumbnail").content
    late = client.get(f"/api/videos/{key}/thumbnail?at=100")  # the file has no such moment
    assert late.content == middle
    assert late.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("at", ["-1", "nan", "inf", "x", "", "1e7", "1;2"])
def test_times_that_are_none(client: TestClient, at: str) -> None:
    said = refused(client.get(f"/api/videos/{video_key(PLAYED)}/thumbnail?at={at}"), 422)
    assert said == "at: give the seconds in the file, from 0 to 1,000,000"


def test_a_thumbnail_stays_within_its_clip(served_project: Path) -> None:
    path = served_project / "videos/test/test0.mp4"
    clip = GalleryVideo("clip", 0, "test", path, 1.0, 2.0)

    async def asked() -> list[float]:
        pictures = MomentThumbnails(10**6)
        found = [await pictures.picture(clip, at) for at in (0.0, 1.5, 9.0)]
        pictures.close()
        return [block(of) for of in found if of is not None]

    assert asyncio.run(asked()) == pytest.approx([28 / 96, 38 / 96, 48 / 96], abs=0.03)


def test_few_pictures_are_decoded_at_a_time_and_few_are_kept(
    served_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = GalleryVideo(
        "a", 0, "test", served_project / "videos/test/test0.mp4", start=0.0, end=None
    )
    going, most, decoded = 0, 0, []
    free, lock = threading.Event(), threading.Lock()

    def decode(path: Path, tenths: int, most_pixels: int) -> bytes:
        nonlocal going, most
        with lock:
            going, most = going + 1, max(most, going + 1)
        free.wait(10)
        with lock:
            going -= 1
            decoded.append(tenths)
        return b"jpeg"

    monkeypatch.setattr(thumbnails, "_decoded", decode)
    monkeypatch.setattr(thumbnails, "_SECONDS", 0.2)
    monkeypatch.setattr(thumbnails, "_MOST_WAITING", 5)
    monkeypatch.setattr(thumbnails, "_MOST_KEPT", 3)

    async def asked() -> None:
        pictures = MomentThumbnails(10**6)
        many = [pictures.picture(video, number / 10) for number in [*range(20), 0, 0]]
        assert set(await asyncio.gather(*many)) == {None}  # too many, or too slow
        free.set()
        while len(decoded) < 5:
            await asyncio.sleep(0.01)
        assert (most, sorted(decoded)) == (2, [0, 1, 2, 3, 4])
        assert await pictures.picture(video, 0.4) == b"jpeg"
        assert len(decoded) == 5
        assert len(pictures._kept) == 3
        pictures.close()

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=5-999999999", slice(5, None)),
    ],
)
def test_a_range_of_a_file(
    client: TestClient, served_project: Path, asked: str, part: slice
) -> None:
    whole = (served_project / "videos/test/test0.mp4").read_bytes()
    response = client.get(file_url(client), headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == whole[part]
    first = range(len(whole))[part][0]
    last = first + len(response.content) - 1
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"


def test_a_whole_file_and_ranges_that_it_has_not(client: TestClient, served_project: Path) -> None:
    whole = (served_project / "videos/test/test0.mp4").read_bytes()
    url = file_url(client)
    response = client.get(url)
    assert response.content == whole
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-type"] == "video/mp4"
    assert client.head(url).headers["content-length"] == str(len(whole))
    beyond = client.get(url, headers={"Range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(whole)}"


def test_a_video_deleted_since(own_project: Path) -> None:
    prepare(workspace(own_project))  # whose paths are those of the copy
    extract(workspace(own_project))
    with client_of(own_project) as client:
        url = file_url(client)
        (own_project / "videos/test/test0.mp4").unlink()
        said = refused(client.get(url), 404)
        assert said == "the file of this video was moved or deleted after it was indexed"
        hits = found(client, query="a", top=13)["hits"]
        (hit,) = (hit for hit in hits if hit["video"]["video_id"] == PLAYED)
        assert hit["video"]["file"] is None
        assert "deleted" in hit["video"]["missing"]


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//....//etc/passwd",
        "..%5c..%5cetc%5cpasswd",
        "%252e%252e%252fetc%252fpasswd",
        "%00",
        "params.yaml",
        "videos%2ftest%2ftest0.mp4",
        "test%2ftest0",
        "%ff%fe",
    ],
)
def test_no_route_leads_out_of_the_manifest(client: TestClient, path: str) -> None:
    for route in ("/", "/pages/", "/api/", "/api/videos/", "/page.css/"):
        refused(client.get(route + path), 404)
    for after in ("file", "thumbnail"):
        refused(client.get(f"/api/videos/{path}/{after}"), 404)
        refused(client.get(f"/api/videos/{video_key(PLAYED)}/{after}/{path}"), 404)


def test_an_absolute_path_is_no_key(client: TestClient, served_project: Path) -> None:
    file = str(served_project / "videos/test/test0.mp4")
    for name in (file, file.replace("/", "%2f")):
        refused(client.get(f"/api/videos/{name}/file"), 404)


def test_methods_that_a_route_has_not(client: TestClient) -> None:
    refused(client.get("/api/search"), 405)
    refused(client.delete("/api/info"), 405)
    refused(client.put(file_url(client), content=b"x"), 405)


def test_every_answer_is_fenced_in(client: TestClient) -> None:
    paths = ["/", "/page.css", "/page.js", "/icon.svg", "/api/info", "/nothing", file_url(client)]
    for path in paths:
        headers = client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_the_page_asks_for_nothing_elsewhere(client: TestClient) -> None:
    page = client.get("/").text
    loaded = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert set(loaded) == {"/", "/icon.svg", "/page.css", "/page.js"}
    assert " style=" not in page
    assert " on" not in re.findall(r"<(\w+ [^>]*)>", page.replace("\n", " "))
    for path in ("/page.js", "/page.css"):
        assert "://" not in client.get(path).text


def test_openapi_describes_every_route_and_answer(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    listed = {(of.path, of.method) for of in ENDPOINTS}
    assert {(path, m) for path, methods in described["paths"].items() for m in methods} == listed
    schemas = described["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)):
        assert name in schemas
    assert "#/$defs" not in json.dumps(described)
    answers = {
        "Info": client.get("/api/info").json(),
        "Results": found(client, query="a"),
        "Video": client.get(f"/api/videos/{video_key(PLAYED)}").json(),
        "Fault": client.get("/nothing").json(),
    }
    for name, answer in answers.items():
        assert set(schemas[name]["properties"]) == set(answer)
    asked = schemas["SearchRequest"]["properties"]
    assert asked["query"]["maxLength"] == 1000
    search = described["paths"]["/api/search"]["post"]
    assert search["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/SearchRequest"
    }
    assert {"413", "422", "429", "503"} <= set(search["responses"])
    file = described["paths"]["/api/videos/{key}/file"]["get"]
    assert {"200", "206", "400", "404", "416"} <= set(file["responses"])


def test_a_fault_that_passes_is_tried_again_later(
    own_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, tried, now = ServedRun._open, [], [0.0]

    def busy(run: ServedRun) -> Any:
        tried.append(now[0])
        if now[0] == 0:
            raise CacheError("another process writes")
        return opened(run)

    with client_of(own_project) as client:
        monkeypatch.setattr(ServedRun, "_open", busy)
        monkeypatch.setattr(runs, "monotonic", lambda: now[0])
        features = own_project / "outputs/features.json"
        os.utime(features)
        for _ in range(3):
            refused(client.post("/api/search", json={"query": "a"}), 503)
        assert tried == [0.0]
        now[0] = 11.0
        assert found(client, query="a")["searched"] == 13
        now[0] = 0.0
        away = features.rename(features.with_suffix(".away"))
        refused(client.post("/api/search", json={"query": "a"}), 503)
        away.rename(features)  # with the time that it had
        now[0] = 1.0
        assert found(client, query="a")["searched"] == 13


def test_a_changed_project_is_read_again(
    own_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with client_of(own_project) as client:
        assert found(client, query="a")["searched"] == 13
        features = own_project / "outputs/features.json"
        kept = features.read_bytes()
        features.unlink()
        response = client.post("/api/search", json={"query": "a"})
        assert refused(response, 503).startswith("the project has changed and cannot be searched")
        assert response.headers["retry-after"] == "10"
        refused(client.post("/api/search", json={"query": "a"}), 503)
        features.write_bytes(kept)
        assert found(client, query="a")["searched"] == 13
        change_params(own_project, dataset__reader="folder", dataset__annotations="videos")
        (own_project / "videos/test/test2.mp4").unlink()
        write_video(own_project / "videos/test/new.mp4", seed=99, num_frames=12)
        prepare(workspace(own_project))
        extract(workspace(own_project))
        os.utime(own_project / "outputs/features.json")
        ids = {h["video"]["video_id"] for h in found(client, query="a", top=50)["hits"]}
        assert any(id_.endswith("new.mp4") or id_.endswith("new") for id_ in ids)
        assert not any("test2" in id_ for id_ in ids)
    assert "the project has changed and was read again" in capsys.readouterr().err


def test_a_failing_search_is_said_without_its_cause(
    own_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(f"cannot read {own_project}")

    with client_of(own_project) as client:
        monkeypatch.setattr("gare_cache.search.searcher.Searcher.search_many", fail)
        said = refused(client.post("/api/search", json={"query": "a"}), 500)
        assert said == "the search failed; the server's terminal says why"
    assert str(own_project) in capsys.readouterr().err


def test_runs_that_can_be_compared(own_project: Path) -> None:
    space = workspace(own_project)
    other = workspace(own_project)
    other = dataclasses.replace(other, outputs=own_project / "more" / "outputs")
    shutil.copytree(space.outputs, other.outputs)
    names = [run.name for run in open_runs(space, other, device="cpu")]
    assert names == ["outputs", "more/outputs"]
    names = [run.name for run in open_runs(space, space, zero_shot=True, device="cpu")]
    assert names == ["zero-shot", "outputs"]
    with pytest.raises(ConfigError, match="outputs would be compared with itself"):
        open_runs(space, space, device="cpu")


def test_without_an_encoder_videos_resemble_videos(
    own_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` did not start: it warmed up with a sentence."""
    change_params(own_project, encoder=None)
    (run,) = open_runs(workspace(own_project), device="cpu")
    run.warm_up()
    assert "sentences and images need an encoder" in capsys.readouterr().err
    with client_of(own_project) as client:
        info = client.get("/api/info").json()
        assert not info["encodes"]
        assert info["encoder_note"].startswith("Sentences and images need an encoder")
        assert len(info["examples"]) == 5
        key = info["examples"][0]["key"]
        answer = found(client, like=[key], top=3)
        assert len(answer["hits"]) == 3
        image = client.post("/api/examples", content=jpeg()).json()["key"]
        for asked in ({"query": "a"}, {"like": [key], "without": ["b"]}, {"images": [image]}):
            said = refused(client.post("/api/search", json=asked), 422)
            assert said.endswith("set it to the one that made the features")


def test_two_servers_on_one_project(own_project: Path) -> None:
    with client_of(own_project) as first, client_of(own_project) as second:
        answers = [found(client, query="a", top=3) for client in (first, second)]
        assert answers[0] == answers[1]


def test_faults_are_one_line_of_json() -> None:
    assert Fault.model_validate_json(Refusal(404, "no").response().body) == Fault(error="no")
