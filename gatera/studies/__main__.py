"""`python -m gatera.studies`: the command line."""

import sys

from gatera.cli import main

if __name__ == "__main__":
    sys.exit(main())
