#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# PostgreSQL's archive_command; pgBackRest insists on its own name in the command. If the repository is away for long,
# the oldest segments are dropped, so that they do not fill the disk. pgBackRest's own limit does not count the segments
# behind one that cannot be sent.
wal=$1
# Patroni also runs it, in another directory, for what a crashed primary has not archived.
cd {{ paths.postgres_data }} || exit 1
set -- pg_wal/archive_status/*.ready
if [ $# -gt {{ size.archive_queue }} ]; then
    echo "$# segments wait for the repository, more than {{ size.archive_queue }}: $wal is not archived" >&2
    # hanode makes a backup once the repository is back: without this segment no older one can be restored beyond it.
    touch /var/spool/pgbackrest/dropped || exit 1
    exit 0
fi
read -r stanza < /run/hanode/stanza || {
    echo "the repository has no archive of this cluster yet: see journalctl -u hanode-backup" >&2
    exit 1
}
push() {
    pgbackrest --stanza="$stanza" --pg1-path={{ paths.postgres_data }} "$@" archive-push "$wal"
}
# A shutdown does not wait for a repository that is away: with this exit code PostgreSQL ends its archiver. The segment
# is archived after the next start.
if [ "$(sed -n 8p postmaster.pid 2> /dev/null)" = stopping ]; then
    push --archive-timeout=2 || exit 126
    exit 0
fi
push
