"""Model artifacts: one directory a version, safetensors + JSON, the manifest written last.

A directory without `manifest.json` is half-written and refused, and so is a file whose sha256 differs from the
manifest's. No pickle is read or written anywhere.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"
TENSORS = "model.safetensors"
AGAIN = "Delete the directory and run the job that writes it again."


class ArtifactError(ValueError):
    """An artifact directory is missing, half-written, altered, or of another kind than asked for."""


class Artifact(NamedTuple):
    """A loaded artifact: its tensors on the CPU and the JSON configuration written beside them."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


def sha256_of(path: Path) -> str:
    """Hex sha256 of one file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_artifact(directory: Path, *, kind: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write an artifact so that a reader sees all of it or nothing.

    Files are written to a sibling directory, the manifest last, then renamed into place. An artifact that is complete
    already is replaced only by one of the same name: versions name their content, so both hold the same model.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / TENSORS)
    seal(partial, kind=kind, config=config)
    if directory.exists():
        shutil.rmtree(directory)
    partial.replace(directory)


def seal(directory: Path, *, kind: str, config: Mapping[str, Any]) -> None:
    """Write the manifest over every file already in `directory`: from here on the artifact counts as complete."""
    files = {str(p.relative_to(directory)): sha256_of(p) for p in sorted(directory.rglob("*")) if p.is_file()}
    files.pop(MANIFEST, None)
    body = json.dumps({"kind": kind, "config": dict(config), "files": files}, indent=2, sort_keys=True)
    draft = directory / f".{MANIFEST}.partial"
    draft.write_text(body, encoding="utf-8")
    draft.replace(directory / MANIFEST)


def read_manifest(directory: Path, *, kind: str) -> dict[str, Any]:
    """The configuration of a complete artifact, every file's checksum verified.

    Raises:
        ArtifactError: missing directory, no manifest (half-written), a missing or altered file, or another kind.
    """
    path = directory / MANIFEST
    if not path.is_file():
        state = "is half-written: it has no manifest" if directory.is_dir() else "does not exist"
        raise ArtifactError(f"The {kind} artifact {directory} {state}. Run the job that writes it again.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(
            f"The manifest of the {kind} artifact {directory} cannot be read: {error}. {AGAIN}"
        ) from error
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{directory} holds a {manifest.get('kind')!r} artifact where a {kind!r} was expected.")
    bad = [
        name
        for name, digest in manifest["files"].items()
        if not (directory / name).is_file() or sha256_of(directory / name) != digest
    ]
    if bad:
        raise ArtifactError(
            f"The {kind} artifact {directory} is damaged: {', '.join(bad)} missing or not what the manifest says. "
            f"{AGAIN}"
        )
    config: dict[str, Any] = manifest["config"]
    return config


def read_artifact(directory: Path, *, kind: str) -> Artifact:
    """Load a complete artifact written by `write_artifact`. Raises `ArtifactError` as `read_manifest` does."""
    config = read_manifest(directory, kind=kind)
    return Artifact(load_file(directory / TENSORS), config)
