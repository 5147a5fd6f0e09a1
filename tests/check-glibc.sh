#!/bin/sh
# Fails when a program asks for symbols of a glibc newer than the given one.
# usage: check-glibc.sh VERSION PROGRAM...
set -eu
wanted=$1
shift
for program; do
    needed=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
    [ -n "$needed" ] || { echo "$program: objdump names no version of glibc at all" >&2; exit 1; }
    if [ "$(printf '%s\n' "$needed" "$wanted" | sort -V | tail -n 1)" != "$wanted" ]; then
        echo "$program needs glibc $needed; $wanted is what the oldest target has" >&2
        exit 1
    fi
    echo "$program: glibc $needed or newer"
done
