#!/bin/sh
# `make chaos`: builds an image, runs `hanode lab chaos` on a new lab, and takes it down. Requires root.
# usage: chaos.sh PROGRAM NODES ROUNDS SEED TIMEOUT-SCALE
set -eu
hanode=$1
work=$(mktemp -d)
trap '"$hanode" lab down "$work/chaos"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

"$hanode" init "$work/chaos" --nodes "$2" >/dev/null
"$hanode" build "$work/chaos" --target debian-13 --out "$work/node.tar"
"$hanode" lab up "$work/chaos" --image "$work/node.tar" --timeout-scale "$5"
"$hanode" lab chaos "$work/chaos" --rounds "$3" --seed "$4" --timeout-scale "$5"
