#!/bin/sh
# SPDX-License-Identifier: MIT
# spin.sh MODEL MUTATION... - the model holds, and each mutation of it yields a counter-example.
# Exits 77 where spin is not installed.

model=$1
shift
command -v spin >/dev/null && command -v gcc >/dev/null || { echo "skip: spin and gcc are needed"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cp "$model" "$dir/model.pml" && cd "$dir" || exit 1

# check DEFINE: prints the number of errors found
check()
{
	rm -f pan* model.pml.trail
	# shellcheck disable=SC2086
	spin -a ${1:+-D$1} model.pml >spin.out 2>&1 && gcc -O1 -w -DNOFAIR -o pan pan.c && ./pan -a -m200000 >pan.out 2>&1
	grep -q 'max search depth too small' pan.out && echo "search depth" && return
	sed -n 's/^State-vector.*errors: *\([0-9]*\).*/\1/p' pan.out
}

bad=0
errors=$(check "")
states=$(sed -n 's/^ *\([0-9e+.]*\) states, stored.*/\1/p' pan.out)
if [ "$errors" = 0 ]; then
	echo "ok: holds, $states states"
else
	echo "FAIL: the model does not hold (errors: ${errors:-none reported})"
	cat spin.out pan.out
	bad=1
fi
for mutation; do
	errors=$(check "$mutation")
	if [ -n "$errors" ] && [ "$errors" != 0 ] && [ -f model.pml.trail ]; then
		echo "ok: $mutation is found out"
	else
		echo "FAIL: $mutation is not found out"
		cat spin.out pan.out
		bad=1
	fi
done
exit $bad
