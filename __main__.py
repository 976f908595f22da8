"""`python -m graft`: the command line. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys

from .nodes.headless.cli import main

if __name__ == "__main__":
    sys.exit(main())
