# Runs a program with ROOT as its `/`, among mounts and processes of its own: whatever it mounts or leaves running is
# gone with it. Each HOST directory lies, not to be written to, at PLACE. All that is said goes to standard error.
# usage: sh -euc THIS enclosed ROOT [HOST PLACE]... -- PROGRAM...
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
