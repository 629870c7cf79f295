"""Run the command line: ``python -m experiment_tracking``."""

import sys

from experiment_tracking.cli import main

if __name__ == "__main__":
    sys.exit(main())
