"""Print the videos that fit a sentence best.

After `make demo`, or in any project after `gare-cache train`:

    python examples/search_videos.py "a red circle moves left, then a blue square grows"
"""

import argparse
from pathlib import Path

import gare_cache


def main() -> None:
    """Parse, search, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentence")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--split", help="train, val or test; else all videos of the cache")
    parser.add_argument("--top", type=int, default=5)
    options = parser.parse_args()

    run = gare_cache.load_run(options.outputs)
    videos = run.video_ids(options.split)
    print(f"{options.sentence!r} among {len(videos):,} videos")
    for place, found in enumerate(run.search(options.sentence, top=options.top, videos=videos), 1):
        moment = "" if found.best_time is None else f"  {found.start:.1f} to {found.end:.1f} s"
        print(f"{place:>3}  {found.score:.3f}  {found.video_id}{moment}")


if __name__ == "__main__":
    main()
