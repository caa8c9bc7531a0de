"""`python -m losslab` is the console script `losslab`."""

from losslab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
