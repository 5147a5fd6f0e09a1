#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# Patroni runs this to clone the leader's data into an empty directory. The marker exists until the clone is complete and
# on disk: what a power cut leaves behind has no value, though it may look complete.
bin={{ paths.postgres_bin }}
data={{ paths.postgres_data }}
marker=$data.cloning
slot={{ replication_slot }}
# Seconds without new data after which a clone ends, so that it neither waits for a leader that hangs forever, nor lets
# the next one wait. pg_basebackup writes nothing while the leader makes its checkpoint.
patience=600
interval=10

discard() {
    # Tablespaces are outside the data directory.
    for link in "$data"/pg_tblspc/*; do
        [ ! -L "$link" ] || rm -rf "$link"/PG_*
    done
    rm -rf "$data" && rm -f "$marker"
}

# Before each start of Patroni.
if [ "$1" = --discard-incomplete ]; then
    [ -f "$marker" ] || exit 0
    # A clone outlives a Patroni that crashes. It would write into the next one, or remove it.
    read -r pids < "$marker"
    for pid in $pids; do
        case $(cat "/proc/$pid/comm" 2> /dev/null) in
        clone_replica | pg_basebackup | restore_backup | pgbackrest) pkill -KILL -P "$pid"; kill -KILL "$pid" ;;
        esac
    done
    # A server that recovers outlives Patroni, too. It never had clients.
    server=$(head -n 1 "$data/postmaster.pid" 2> /dev/null)
    if [ "$(cat "/proc/$server/comm" 2> /dev/null)" = postgres ]; then
        kill -QUIT "$server"
        while kill -0 "$server" 2> /dev/null; do sleep 0.2; done
    fi
    echo "removing $data: its clone or restore was interrupted"
    # Patroni renames the data of a restore that failed.
    rm -rf "$data.failed" "$data"_[0-9]*-[0-9]*
    discard
    exit
fi

source=
for word; do
    case $word in
    --connstring=*) source=${word#*=} ;;
    esac
done
# A leader that dies must not keep the clone waiting.
source="$source connect_timeout=5 keepalives_idle=10 keepalives_interval=3 keepalives_count=3"
query() {
    "$bin/psql" --no-psqlrc --tuples-only --no-align --dbname="$source dbname=postgres" --command="$1"
}

# A clone that does not fit would fill the disk, and stop every other server that uses it.
need=$(query "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')")
free=$(df --output=avail --block-size=1 "$(dirname "$data")" | tail -n 1)
spaces=$(query "SELECT count(*) FROM pg_tablespace")
if [ "$spaces" = 2 ] && [ -n "$need" ] && [ "$free" -lt $((need + need / 20 + 268435456)) ]; then
    echo "no clone: the data takes $((need >> 20)) MB and 256 MB of WAL, and $(dirname "$data") has $((free >> 20)) MB free"
    ls -d "$data".aside-* 2> /dev/null | sed 's/^/data that was moved aside: /'
    exit 1
fi
{%- if features.postgres_wal_keep_size is on %}

# A slot that is lost stays lost, and then keeps no WAL during the next absence.
query "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
    WHERE slot_name = '$slot' AND wal_status = 'lost' AND NOT active"
{%- endif %}
# The slot keeps WAL that is written during the clone.
query "SELECT pg_create_physical_replication_slot('$slot', true)
    WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '$slot')"

# Ends the process $1 when the data stops growing.
end_without_progress() {
    size= quiet=0
    while sleep $interval; do
        last=$size
        size=$(du -s --block-size=1 "$data" "$data"/pg_tblspc/*/ 2> /dev/null)
        [ "$size" = "$last" ] && quiet=$((quiet + interval)) || quiet=0
        [ $quiet -lt $patience ] || break
    done
    echo "no data has arrived for $patience s: the clone ends"
    kill "$1"
}

trap 'kill $clone $watch; wait $clone' TERM INT
echo $$ > "$marker" && sync -f "$marker"
# The flush to disk, which shows no progress, follows.
"$bin/pg_basebackup" --pgdata="$data" --no-sync --wal-method=stream --checkpoint=fast --dbname="$source" &
clone=$!
end_without_progress $clone &
watch=$!
echo "$$ $clone $watch" > "$marker"
wait $clone
code=$?
# With the command for which it waits.
pkill -P $watch
kill $watch 2> /dev/null
if [ $code -ne 0 ]; then
    discard
    exit $code
fi
for place in "$data" "$data"/pg_tblspc/*/; do
    [ ! -d "$place" ] || sync -f "$place"
done
rm -f "$marker"
sync -f "$data"
