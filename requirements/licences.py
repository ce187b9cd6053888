"""The licence of every locked package, as it says of itself: `python requirements/licences.py > docs/licences.md`."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

HEADER = """# Licences of what is installed

As each package of `requirements/cpu.lock` says it of itself; written by `python requirements/licences.py`. The GPU lock
differs by CUDA builds of the same packages. `cuda-toolkit` names no licence; it and NVIDIA's other packages
come under NVIDIA's own terms. For known weaknesses of these versions:
`pipx run pip-audit --require-hashes --disable-pip -r requirements/cpu.lock`.

| package | version | licence |
|---|---|---|"""


def licence(name: str) -> str:
    """In order: the SPDX expression, the classifiers, the first line of the licence field."""
    facts = metadata(name)
    if expression := facts.get("License-Expression"):
        return expression
    classed = [c.rpartition(" :: ")[2] for c in facts.get_all("Classifier", []) if c.startswith("License ::")]
    if classed := [name for name in classed if name != "OSI Approved"]:
        return ", ".join(classed)
    return (facts.get("License") or "").strip().partition("\n")[0][:60]


def main() -> None:
    """Print the page."""
    lock = Path(__file__).with_name("cpu.lock").read_text(encoding="utf-8")
    print(HEADER)  # noqa: T201
    for name, version in sorted(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock, re.MULTILINE)):
        try:
            print(f"| {name} | {version} | {licence(name) or '**says nothing**'} |")  # noqa: T201
        except PackageNotFoundError:
            continue  # locked for another platform


if __name__ == "__main__":
    main()
