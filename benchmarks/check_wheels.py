"""Resolve every list of requirements for each Python and platform, from wheels alone: nothing may need a compiler.

requirements*.txt, pyproject.toml -> a table in markdown; exit code 1 if one does not resolve

    python benchmarks/check_wheels.py

uv chooses the same versions as pip, and can resolve for platforms other than this one. It downloads metadata only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import bench
from linklab import cli

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux arm64": "aarch64-manylinux_2_28",
    "macOS 14 arm64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
LISTS = ("requirements.txt", "requirements-dev.txt", "pyproject.toml")


def resolve(name: str, python: str, platform: str) -> str | None:
    """Return why a list does not resolve, None if it does."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--only-binary", ":all:"]
    command += ["--python-version", python, "--python-platform", platform, name]
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that torch's wheels run on
    done = subprocess.run(command, cwd=bench.ROOT, env=env, capture_output=True, text=True, check=False)
    return " ".join(done.stderr.split()) if done.returncode else None


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = bench.make_parser(__doc__)
    parser.add_argument("--lists", nargs="+", default=LISTS, metavar="FILE", help="lists of requirements to resolve")
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="X.Y", help="versions of Python")
    return parser


def run(args: argparse.Namespace) -> int:
    """Resolve each list everywhere and print the table."""
    print(f"| | {' | '.join(PLATFORMS)} |\n|---|{'---|' * len(PLATFORMS)}")
    failed = 0
    for name in args.lists:
        for python in args.pythons:
            faults = {shown: resolve(name, python, platform) for shown, platform in PLATFORMS.items()}
            print(f"| {name}, Python {python} | {' | '.join('NO' if fault else 'yes' for fault in faults.values())} |")
            for shown, fault in faults.items():
                if fault:
                    failed += 1
                    cli.say(f"{name}, Python {python}, {shown}: {fault}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
