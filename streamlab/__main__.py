"""``python -m streamlab`` is ``streamlab``."""

import sys

from streamlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
