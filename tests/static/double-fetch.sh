#!/bin/sh
# SPDX-License-Identifier: MIT
# double-fetch.sh SOURCE_ROOT - no memory shared with a guest or peer is fetched twice; exits 77 where spatch is missing.

command -v spatch >/dev/null || { echo "skip: coccinelle is not installed"; exit 77; }
cd "$1" || exit 1
rule=tests/static/double-fetch.cocci
sample=tests/static/double-fetch-sample.c
errors=$(mktemp) || exit 1
trap 'rm -f "$errors"' EXIT

run()
{
	spatch --very-quiet --no-includes --no-show-diff --sp-file "$rule" "$@" 2>"$errors" | grep ':[0-9][0-9]*: ' | sort -u
}

# the gate finds what it is there for, and only that
want=$(grep -n 'BAD \*/$' "$sample" | cut -d: -f1)
got=$(run "$sample" | cut -d: -f2 | sort -un)
if [ "$want" != "$got" ]; then
	printf 'FAIL: in the sample, lines\n%s\nmust be reported, but these were:\n%s\n' "$want" "$got"
	cat "$errors"
	exit 1
fi

found=$(run src/ring/*.[ch] src/virtio/*.c src/vhost/*.c src/transport/*.c src/devices/*.c)
if [ -n "$found" ]; then
	printf '%s\n' "$found"
	exit 1
fi
if grep -i 'error\|exception' "$errors"; then
	exit 1
fi
echo "ok: nothing is fetched twice"
