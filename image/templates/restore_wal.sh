#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# PostgreSQL's restore_command while a cluster is restored: restore_wal PART FILE PATH. PostgreSQL takes a failure as the
# end of the archive, but ends itself with an exit code above 125. So a repository that is away ends no recovery early.
for attempt in 1 2 3 4 5; do
    [ "$attempt" = 1 ] || sleep 2
    pgbackrest --stanza="$1" --pg1-path={{ paths.postgres_data }} --no-archive-async archive-get "$2" "$3"
    case $? in
    0)
        # The last segment that was read shows whether recovery has come to the end of the archive.
        case $2 in
        *.*) ;;
        *) echo "$2" > {{ paths.postgres_data }}/hanode-wal ;;
        esac
        exit 0
        ;;
    1) exit 1 ;;
    esac
done
exit 126
