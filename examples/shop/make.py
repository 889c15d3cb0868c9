"""Write an invented shop: `python examples/shop/make.py FOLDER` makes clicks.csv, items.csv and llm4msr.yaml.

Titles name kinds of goods, and users like some kinds: so the texts of items say something, and knowledge has something to find.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.shop_world import write_shop


def main() -> int:
    """Write it, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--items", type=int, default=900)
    parser.add_argument(
        "--clicks", type=int, default=5_000, help="positives; for each of them two rows without a click"
    )
    given = parser.parse_args()
    shop = write_shop(given.folder, users=given.users, items=given.items, positives=given.clicks)
    print(
        f"{given.folder}: {shop.rows:,} rows of the log, {shop.items:,} items; settings in {given.folder / 'llm4msr.yaml'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
