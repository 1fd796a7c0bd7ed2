"""Code that the scripts share, in packages ("rooms"); CONTRIBUTING.md says what each room holds."""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 11):  # noqa: UP036  checked before any import that an older Python cannot parse
    found = f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
    sys.stderr.write(
        f"error: Python 3.11 or later is needed, this is {found}; run .venv/bin/python instead (environment.md)\n"
    )
    sys.exit(2)
