#!/bin/sh
# usage: record.sh TREE PLATFORM OUT
# Runs cloud-init of TREE on a fake PLATFORM and copies its /run/cloud-init to OUT/run/cloud-init. Prints the part that a
# fixture in recorded/ keeps. TREE is not changed; mounts and network end with this script's namespaces. Needs root.
set -eu
[ "${HANODE_INSIDE-}" ] || HANODE_INSIDE=1 exec unshare --mount --net "$0" "$@"
tree=$(realpath "$1") platform=$2 out=$(realpath "$3") here=$(dirname "$(realpath "$0")")
ip link set lo up
for address in 169.254.169.254 168.63.129.16; do ip address add $address/32 dev lo; done
work=$(mktemp -d) && mount -t tmpfs tmpfs "$work" && mkdir "$work/root" "$work/upper" "$work/work"
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/sys/class/net" "$root/sys/class/dmi/id"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3 && mknod -m 666 "$root/dev/urandom" c 1 9
printf '127.0.0.1 localhost\n' > "$root/etc/hosts"
cp "$here/record.py" "$here/endpoints.py" "$root/run"
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot "$root" timeout 120 python3 /run/record.py "$platform"
mkdir -p "$out/run/cloud-init"
cp "$root"/run/cloud-init/instance-data*.json "$out/run/cloud-init"
