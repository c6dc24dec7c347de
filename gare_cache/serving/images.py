"""Example images that clients post: checked, kept for a while, named by keys."""

from __future__ import annotations

import io
import secrets
import tempfile
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from gare_cache.serving.refusals import Refusal
from gare_cache.serving.schema import Example

# Others, such as EPS, start programs or are rarely photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MOST_KEPT = 64


class ExampleImages:
    """The last images that were posted, in a folder that is removed with the server."""

    def __init__(self, most_pixels: int) -> None:
        """Take images of at most ``most_pixels`` pixels."""
        self._most_pixels = most_pixels
        self._folder = tempfile.TemporaryDirectory(prefix="gare-cache-serve-")
        self._kept: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes) -> Example:
        """Keep an image.

        Raises:
            Refusal: it is no image (415) or too large (413).
        """
        try:
            with warnings.catch_warnings(), Image.open(io.BytesIO(content), "r", _FORMATS) as image:
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                width, height = image.size
                if width * height > self._most_pixels:
                    limit = f"the limit is {self._most_pixels:,} pixels"
                    raise Refusal(413, f"the image has {width} x {height} pixels; {limit}")
                image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
            message = "the file cannot be read as an image; give a JPEG, PNG, WebP, GIF or BMP"
            raise Refusal(415, message) from err
        key = secrets.token_hex(10)
        path = Path(self._folder.name) / key
        path.write_bytes(content)
        with self._lock:
            self._kept[key] = path
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)[1].unlink(missing_ok=True)
        return Example(key=key, width=width, height=height)

    def path(self, key: str) -> Path:
        """Return the file of an image.

        Raises:
            Refusal: it is not kept any more.
        """
        with self._lock:
            if key not in self._kept:
                raise Refusal(404, "the example image is not kept any more; give it again")
            self._kept.move_to_end(key)
            return self._kept[key]

    def close(self) -> None:
        """Remove the images."""
        self._folder.cleanup()
