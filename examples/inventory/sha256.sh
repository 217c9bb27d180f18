#!/bin/sh
# The SHA-256 of the file $1 as JSON. INVENTORY_LEDGER names a file in which each run is noted.
set -eu
[ -z "${INVENTORY_LEDGER-}" ] || printf 'sha256 %s\n' "$1" >>"$INVENTORY_LEDGER"
# Read from standard input, or the name would be printed too, escaped where it is odd.
exec <"$1"
sum=$(sha256sum)
printf '{"sha256":"%s"}\n' "${sum%% *}"
