"""What the scripts share, in rooms; CONTRIBUTING.md says which room holds what."""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 11):  # noqa: UP036  said here, before an import that an older Python cannot read
    found = f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
    sys.stderr.write(
        f"error: Python 3.11 or later is needed, and this is {found}; run .venv/bin/python instead (environment.md)\n"
    )
    sys.exit(2)
