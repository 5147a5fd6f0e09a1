#!/bin/sh
# Measures the numbers in docs/measured.md with a release build: the median of RUNS (3) runs, with the command of each.
# Run as root on an otherwise idle machine.
set -eu
hanode=${1:?usage: bench.sh PROGRAM [RUNS]}
runs=${2:-3}
dir=$(mktemp -d "${TMPDIR:-/tmp}/hanode-bench-XXXXXX")
cluster=$dir/bench
finish() {
	code=$?
	trap - EXIT INT TERM
	[ ! -d "$cluster" ] || "$hanode" lab down "$cluster" || code=1
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
row() { printf '%-58s %8s %-4s %s\n' "$1" "$2" "$3" "${4-}"; }
mib() { du -m "$1" | cut -f1; }
# Appends the duration that the build prints to a file.
build() {
	"$hanode" build "$cluster" --target debian-13 --out "$dir/$1" $2 > "$dir/output" 2> "$dir/errors" || { cat "$dir/errors" >&2; exit 1; }
	sed -n 's/.* MiB, \([0-9.]*\) s, .*/\1/p' "$dir/output" >> "$dir/$3"
}

"$hanode" init "$cluster" >/dev/null
build node.qcow2 '' first
for run in $(seq "$runs"); do
	sed -i "s/^\(# \)\{0,1\}max_connections = .*/max_connections = $((200 + run))/" "$cluster/cluster.toml"
	build node.qcow2 '' edit
	build small.qcow2 --compress compress
done
build node.tar '' tar
echo "$(date +%F), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg) before the launches; medians of $runs runs"
row 'spec edit to qcow2' "$(median "$dir/edit")" s 'hanode build DIR --target debian-13 --out node.qcow2'
row 'spec edit to compressed qcow2' "$(median "$dir/compress")" s '… --compress'
row 'qcow2' "$(mib "$dir/node.qcow2")" MiB 'du -m node.qcow2'
row 'compressed qcow2' "$(mib "$dir/small.qcow2")" MiB 'du -m small.qcow2'
rm "$dir/node.qcow2" "$dir/small.qcow2"

on() { "$hanode" lab exec "$cluster" --node node1 -- "$@"; }
for run in $(seq "$runs"); do
	"$hanode" lab up "$cluster" --image "$dir/node.tar" --timeout-scale 3 > "$dir/up" 2>&1 || { cat "$dir/up" >&2; exit 1; }
	sed -n 's/^ *\([0-9.]*\) s  healthy, from launch.*/\1/p' "$dir/up" >> "$dir/healthy"
	on cat /run/hanode/state.json > "$dir/state"
	for phase in identity applying starting in-service; do
		sed -n "s/^ *\"$phase\": \([0-9]*\).*/\1/p" "$dir/state" | awk '{ printf "%.1f\n", $1 / 1000 }' >> "$dir/$phase"
	done
	for part in own children; do
		sed -n "s/^ *\"$part\": \([0-9]*\).*/\1/p" "$dir/state" >> "$dir/cpu-$part"
	done
	on sh -c 'sed -n "s/VmHWM:[^0-9]*\([0-9]*\) kB/\1/p" /proc/$(systemctl show -P MainPID hanode-ready)/status' |
		awk '{ printf "%.1f\n", $1 / 1024 }' >> "$dir/memory"
	"$hanode" lab down "$cluster" >/dev/null 2>&1
done
row 'launch of three nodes to a healthy cluster' "$(median "$dir/healthy")" s 'hanode lab up DIR --image node.tar'
row '  node1: identity, from the start of its PID 1' "$(median "$dir/identity")" s 'times_ms in /run/hanode/state.json'
row '  node1: writes its configuration' "$(median "$dir/applying")" s
row '  node1: starts the servers' "$(median "$dir/starting")" s
row '  node1: in service' "$(median "$dir/in-service")" s
row "CPU time of hanode-plan" "$(median "$dir/cpu-own")" ms 'cpu_ms in /run/hanode/state.json'
row "  and of the validators that it runs" "$(median "$dir/cpu-children")" ms
row 'peak memory of hanode-ready' "$(median "$dir/memory")" MiB 'VmHWM of hanode-ready'
