"""``python -m harness FIRST LAST``: tell the stories of these seeds, print what was found as one JSON object.

With ``--until-caught`` it ends at the first story with a problem.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter

import structlog

from .faults import Hits
from .story import plan_of, tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="harness")
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--until-caught", action="store_true")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    began = time.process_time()
    hits: Hits = Counter()
    totals: Counter[str] = Counter()
    problems: dict[int, list[str]] = {}
    for seed in range(asked.first, asked.last):
        result = tell(seed)
        hits.update(result.hits)
        totals.update(runs=1, bindings=result.bindings, over_commitments=result.over_commitments)
        totals.update({f"plan {plan_of(seed)}": 1})
        if result.problems:
            problems[seed] = result.problems[:5]
            if asked.until_caught:
                break
    found = {
        "totals": dict(totals),
        "cpu_s": round(time.process_time() - began, 1),
        "problems": problems,
        "hits": [[a, f, n] for (a, f), n in hits.items()],
    }
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
