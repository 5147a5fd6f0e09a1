# Runs a program with ROOT as its `/`, in the mount and PID namespaces of the caller, so that its mounts and processes
# end with it. Each HOST directory is mounted read-only at PLACE. All output goes to standard error.
# usage: sh -euc SCRIPT isolate ROOT [HOST PLACE]... -- PROGRAM...
root=$1
shift
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=1m dev "$root/dev"
for name in null zero full random urandom tty; do
    : > "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mkdir "$root/dev/shm"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@" >&2
