#!/bin/sh
# The size of the file $1 when compressed, as JSON. INVENTORY_LEDGER names a file in which each run
# is noted.
set -eu
[ -z "${INVENTORY_LEDGER-}" ] || printf 'gzip %s\n' "$1" >>"$INVENTORY_LEDGER"
exec <"$1"
bytes=$(gzip -9 -n -c | wc -c)
printf '{"bytes":%d}\n' "$bytes"
