#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# PostgreSQL's archive_command. If the repository is away for long, the oldest segments are dropped, so that they do not
# fill the disk. pgBackRest's own limit does not count the segments behind one that cannot be sent.
wal=$1
set -- pg_wal/archive_status/*.ready
if [ $# -gt {{ size.archive_queue }} ]; then
    echo "$# segments wait for the repository, more than {{ size.archive_queue }}: $wal is not archived" >&2
    # hanode starts a full backup once the repository is back: without this segment none can be restored beyond it.
    touch /var/spool/pgbackrest/dropped
    exit 0
fi
read -r stanza < /run/hanode/stanza || {
    echo "the repository has no archive of this cluster yet: see journalctl -u hanode-backup" >&2
    exit 1
}
exec pgbackrest --stanza="$stanza" --pg1-path={{ paths.postgres_data }} archive-push "$wal"
