#!/bin/sh
# Tests and timings on a graphics card, in one file of JSON: scripts/on_gpu.sh [--output FILE] [--device cuda] ...
# Nothing is fetched or installed. A Python that has torch is looked for: $PYTHON, this repository's .venv,
# the active environment, python3. What it lacks may lie in a folder of wheels: --wheels FOLDER.
set -u
cd "$(dirname "$0")/.." || exit 4
has_torch() { "$1" -c 'import sys, torch; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
sees_card() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; }
first() { # the first Python of which this holds
    for python in .venv/bin/python ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} python3 python; do
        if command -v "$python" >/dev/null 2>&1 && "$1" "$python"; then
            echo "$python"
            return
        fi
    done
}
if [ -n "${PYTHON:-}" ]; then
    chosen=$PYTHON
    has_torch "$chosen" || chosen=
else
    chosen=$(first sees_card)
    chosen=${chosen:-$(first has_torch)}
fi
if [ -z "$chosen" ]; then
    echo "on_gpu.sh: no Python 3.11 or newer with torch was found; name one in PYTHON." >&2
    exit 4
fi
export PYTHONUNBUFFERED=1
exec "$chosen" -m benchmarks.on_gpu "$@"
