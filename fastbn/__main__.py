"""`python -m fastbn`: the command line."""

import sys

if __name__ == "__main__":
    try:
        from ._cli import main
    except KeyboardInterrupt:  # NumPy is on its way
        sys.exit(130)
    sys.exit(main())
