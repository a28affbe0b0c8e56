#!/usr/bin/env bash
# A Ray head on this machine, on loopback and behind a token:
#
#   cluster/local.sh up [--dashboard-port 8265 ...]   start it, or say where it is
#   eval "$(cluster/local.sh env)"                    let `ray job submit` and the dashboard reach it
#   cluster/local.sh status | down
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python
exec "$python" -m qdet head "$@"
