"""Ask a running `gare-cache serve` from any program: only the standard library is needed here.

    python examples/ask_server.py "a red circle moves left"

With a token: set GARE_CACHE_TOKEN. The address /api/openapi.json describes the whole API.
"""

import argparse
import json
import os
import urllib.request


def main() -> None:
    """Parse, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentence")
    parser.add_argument("--server", default="http://127.0.0.1:8765")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args()

    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("GARE_CACHE_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    asked = json.dumps({"query": options.sentence, "top": options.top}).encode()
    request = urllib.request.Request(f"{options.server}/api/search", asked, headers)
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    print(f"{options.sentence!r} among {answer['searched']:,} videos")
    for hit in answer["hits"]:
        print(f"{hit['rank']:>3}  {hit['score']:.3f}  {hit['video']['video_id']}")
        if hit["video"]["file"]:
            print(f"     {options.server}{hit['video']['file']}#t={hit['start'] or 0:.1f}")


if __name__ == "__main__":
    main()
