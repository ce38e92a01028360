#!/bin/sh
# install.sh ENVIRONMENT ARGUMENT...: pip install, from the wheelhouse alone where there is one.
set -eu
where=$1
shift
[ -x "$where/bin/python" ] || python3 -m venv "$where"
if ls /wheels/*.whl >/dev/null 2>&1; then
  set -- --no-index --find-links /wheels "$@"
fi
exec "$where/bin/python" -m pip install -q --no-cache-dir --disable-pip-version-check \
  --root-user-action=ignore -c /constraints.txt "$@"
