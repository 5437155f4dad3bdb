"""`python -m jobs` is `mstar-ray`."""

from __future__ import annotations

from jobs.main import main

if __name__ == "__main__":
    main()
