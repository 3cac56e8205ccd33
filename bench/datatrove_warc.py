"""The peer of data_web.py: datatrove's WARC reader with trafilatura, in an environment of its own.

    PEER/bin/python bench/datatrove_warc.py FOLDER_OF_WARCS

Answers each line of stdin with a JSON line: seconds, pages, characters. Pages are read in one
process and extracted in another, one waiting for the other: seconds of one core.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version


def extract(folder: str) -> dict[str, float]:
    """Read every WARC of the folder once."""
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.readers import WarcReader

    begun = time.perf_counter()
    reader = WarcReader(folder, glob_pattern="*.warc.gz")
    texts = [one.text for one in Trafilatura(timeout=10).run(reader.run())]
    return {
        "seconds": time.perf_counter() - begun,
        "pages": len(texts),
        "characters": sum(map(len, texts)),
    }


def main() -> None:
    """Serve rounds until stdin ends; the first line of stdout tells the versions."""
    from datatrove.utils.logging import logger

    logger.remove()
    print(json.dumps({name: version(name) for name in ("datatrove", "trafilatura")}), flush=True)
    for _line in sys.stdin:
        print(json.dumps(extract(sys.argv[1])), flush=True)


if __name__ == "__main__":
    main()
