#!/bin/sh
# The lines, words and bytes of the file $1 as JSON. INVENTORY_LEDGER names a file in which each run
# is noted.
set -eu
[ -z "${INVENTORY_LEDGER-}" ] || printf 'counts %s\n' "$1" >>"$INVENTORY_LEDGER"
exec <"$1"
# Words are those of the C locale, so that the result does not depend on the user's.
export LC_ALL=C
counts=$(wc -lwc)
# shellcheck disable=SC2086 # three numbers, to be split
set -- $counts
printf '{"lines":%d,"words":%d,"bytes":%d}\n' "$1" "$2" "$3"
