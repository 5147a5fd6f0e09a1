#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# Patroni runs this instead of initdb if the cluster begins with a restore: restore_backup PART BACKUP. The marker exists
# until recovery has reached its target: what an interruption or a failure leaves behind has no value.
data={{ paths.postgres_data }}
marker=$data.cloning
log=/run/pgbackrest/restore.log

rm -f "$log"
echo $$ > "$marker" && sync -f "$marker"
mkdir -p -m 0700 "$data"
trap 'kill $!; wait $!' TERM INT
# Patroni writes the settings of the recovery.
pgbackrest --stanza="$1" --set="$2" --pg1-path="$data" --type=none --process-max="$(nproc)" restore 2> "$log" &
echo "$$ $!" > "$marker"
wait $!
code=$?
cat "$log" >&2
# Of the cluster from which the backup is: Patroni's settings, and the result of its own restore.
rm -f "$data/patroni.dynamic.json" "$data/hanode-restored"
[ $code -ne 0 ] || sync -f "$data"
exit $code
