#!/usr/bin/env bash
# Renew the hashed locks from pyproject.toml (`make lock`). No download address is written into them.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(mktemp -d)
python3.11 -m venv "$uv" && "$uv/bin/pip" install -q uv
for faiss in cpu gpu; do
  "$uv/bin/uv" pip compile pyproject.toml --extra dev --extra "$faiss" --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-annotate --no-header \
    -q -o "requirements/$faiss.lock"
done
# The S3 of the tests: in an environment of its own, since botocore wants an older python-dateutil.
"$uv/bin/uv" pip compile requirements/object-store.in --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --generate-hashes --no-emit-index-url --no-annotate --no-header -q -o requirements/object-store.lock
