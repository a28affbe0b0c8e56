#!/usr/bin/env bash
# A Ray head on this machine, on loopback and behind a token:
#
#   cluster/local.sh up [--dashboard-port 8265 ...]   start it, or print where it is
#   eval "$(cluster/local.sh env)"                    set what `ray job submit` and the dashboard need
#   cluster/local.sh status | down
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python
exec "$python" -m qdet head "$@"
