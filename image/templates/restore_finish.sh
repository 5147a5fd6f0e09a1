#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# Patroni runs this once a restored PostgreSQL has been promoted: restore_finish BACKUP_END LAST_SEGMENT CONNECTION, or
# "target" in place of the segment. If recovery has not come as far as it should, Patroni discards the data.
data={{ paths.postgres_data }}
log=/run/pgbackrest/restore.log
fail() {
    echo "ERROR: $1" | tee -a "$log" >&2
    exit 1
}

if [ "$2" = target ]; then
    # PostgreSQL before 13 also promotes if the WAL ends before the target; then the reason in its history is empty.
    for history in "$data"/pg_wal/*.history; do newest=$history; done
    case $(grep '^[0-9]' "$newest" | tail -n 1) in
    "" | *" 2000-01-01 "* | *"LSN 0/0"* | *'restore point ""'* | *"no recovery target"*)
        fail "recovery ended before it reached its target"
        ;;
    esac
else
    read -r last < "$data/hanode-wal"
    # A cluster that still runs may have archived more meanwhile.
    [ "$(printf '%s\n' "$2" "$last" | LC_ALL=C sort | tail -n 1)" = "$last" ] ||
        fail "recovery ended at the WAL segment $last, before the end of the archive at $2"
fi

psql="{{ paths.postgres_bin }}/psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1"
$psql --file={{ paths.postgres_roles }} "$3" || fail "setting the passwords failed"
reached="SELECT json_build_object(
    'reached', floor(extract(epoch FROM greatest(pg_last_xact_replay_timestamp(), to_timestamp($1))))::bigint,
    'lsn', pg_last_wal_replay_lsn())"
result=$($psql --tuples-only --no-align --command="$reached" "$3") || fail "reading the end of the recovery failed"
echo "$result" > "$data/hanode-restored"
rm -f "$data/hanode-wal"
sync -f "$data"
rm -f "$data.cloning" && sync -f "$data"
