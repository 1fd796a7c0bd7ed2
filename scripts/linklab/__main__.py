"""One command, `linklab`, for every script: `linklab convert --csv mine.csv ...` runs convert_csv_to_jsonl.py.

This is for a package installed with `pip install .`; in a checkout call the scripts directly.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Sequence

from linklab import __version__
from linklab.pipeline import SCRIPTS

COMMANDS = {
    "generate": "generate_synthetic_large",
    "smoke": "generate_synthetic_smoke",
    "import-survey": "import_survey",
    "validate": "validate_dataset",
    "convert": "convert_csv_to_jsonl",
    "baselines": "run_baselines",
    "finetune": "finetune_gemma_from_csv",
    "evaluate": "evaluate_model",
    "compare": "compare_results",
    "predict": "predict",
    "curve": "run_learning_curve",
    "sweep": "run_sweep",
    "export": "export_model",
    "push": "push_to_hub",
    "demo": "run_demo",
    "fix-notebook-widgets": "fix_notebook_widgets",
}  # in the order a project uses them; check_merge.py works only in a checkout, so it has no command


def first_sentence(script: str) -> str:
    """Return the first sentence of a script's docstring, without importing the script."""
    doc = ast.get_docstring(ast.parse((SCRIPTS / f"{script}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(doc.partition("\n\n")[0].split())


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{first_sentence(script)}" for name, script in COMMANDS.items()]
    return "\n".join(["usage: linklab COMMAND [OPTION ...]", "", *lines, "", "linklab COMMAND --help explains each."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script that belongs to a command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"linklab {__version__}")
        return 0
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(COMMANDS)}"
        print(f"error: no command '{words[0]}'; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"linklab {words[0]}", *words[1:]]
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return int(importlib.import_module(COMMANDS[words[0]]).main(words[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
