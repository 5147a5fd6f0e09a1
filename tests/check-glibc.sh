#!/bin/sh
# Fails if a program needs symbols of a glibc newer than VERSION.
# usage: check-glibc.sh VERSION PROGRAM...
set -eu
wanted=$1
shift
for program; do
    needed=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
    [ -n "$needed" ] || { echo "$program: no glibc version in the output of objdump" >&2; exit 1; }
    if [ "$(printf '%s\n' "$needed" "$wanted" | sort -V | tail -n 1)" != "$wanted" ]; then
        echo "$program needs glibc $needed, but the oldest target has $wanted" >&2
        exit 1
    fi
    echo "$program: glibc $needed or newer"
done
