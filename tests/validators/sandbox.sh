#!/bin/sh
# Runs the script on standard input inside a Debian tree, on a copy that is thrown away, with the nodes'
# addresses on an interface of its own. Start it in new mount, network and process namespaces.
# usage: sandbox.sh TREE DIR ADDRESS...     DIR holds upper/ (files to lay over the tree), work/ and root/
set -eu
tree=$1 dir=$2
shift 2
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
mount -t proc proc "$dir/root/proc"
mount --rbind /dev "$dir/root/dev"
mount -t tmpfs tmpfs "$dir/root/run"
mount -t tmpfs tmpfs "$dir/root/tmp"
ip link set lo up
# Two ends of a cable: a link that is up, and none of the kernel modules that a dummy device wants.
ip link add host0 type veth peer name other
ip link set other up
ip link set host0 up
for address in "$@"; do
    ip address add "$address/24" dev host0
done
exec chroot "$dir/root" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -eu
