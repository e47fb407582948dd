"""`python -m mechlist` is `mechlist`."""

import sys

from mechlist.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
