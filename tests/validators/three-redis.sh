# Three Redis and three Sentinels, each with its node's rendered files below /srv/NODE, and one HAProxy.
runtime
for node in node1 node2 node3; do
    chown redis /srv/$node/run
    as redis redis-server /srv/$node/live/redis.conf > /tmp/$node.log 2>&1 &
    as redis redis-sentinel /srv/$node/live/sentinel.conf > /tmp/$node-sentinel.log 2>&1 &
done
haproxy -W -f /etc/haproxy/haproxy.cfg > /tmp/haproxy.log 2>&1 &
tls=$1
limit=
cli() { # PASSWORD HOST PORT COMMAND...
    password=$1 host=$2 port=$3
    shift 3
    REDISCLI_AUTH=$password $limit redis-cli -h "$host" -p "$port" $tls "$@"
}
sentinel() { # NODE COMMAND...
    at=192.168.18.2$1
    shift
    cli sentinel-0123456789-not-for-use "$at" 26378 SENTINEL "$@"
}
administer() { # HOST COMMAND...
    at=$1
    shift
    cli redis-admin-0123456789-not-for-use $at 6378 --user hanode "$@"
}
through() { cli redis-0123456789-not-for-use 192.168.18.20 6379 "$@"; }
within 40 says 'OK 3 usable Sentinels' sentinel 1 CKQUORUM redis-cluster
within 20 says 192.168.18.22 sentinel 3 GET-MASTER-ADDR-BY-NAME redis-cluster
within 20 says '^OK$' through SET key value
says min_slaves_good_slaves:2 through INFO replication

echo "an application administers nothing, from any node"
# After a refused MONITOR redis-cli 6.0 waits for more.
limit='timeout 5'
refused() { # COMMAND...
    says 'NOPERM\|no permission\|can.t run this command\|not allowed\|ACL failure' through "$@"
    says 'NOPERM\|no permission\|can.t run this command\|not allowed\|ACL failure' cli redis-0123456789-not-for-use 192.168.18.22 6378 "$@"
}
for command in "CONFIG SET requirepass x" "CONFIG GET masterauth" "REPLICAOF 192.168.18.66 6666" "SLAVEOF NO ONE" "ACL SETUSER eve on" \
    "ACL LIST" "DEBUG SLEEP 0" "SHUTDOWN NOSAVE" "CLIENT LIST" "CLIENT KILL TYPE normal" "CLIENT PAUSE 1" "MODULE LIST" "MONITOR" \
    "SAVE" "BGREWRITEAOF" "PSYNC ? -1" "REPLCONF listening-port 1" "SLOWLOG GET" "EVAL return(redis.call('config','get','*')) 0"; do
    refused $command
done
# Before Redis 7 a user has one set of channels for all commands.
if [ "$(redis-server --version | sed 's/.* v=\([0-9]*\).*/\1/')" -ge 7 ]; then
    refused PUBLISH __sentinel__:hello x
    refused EVAL "return(redis.call('publish','__sentinel__:hello','x'))" 0
fi
limit=
for command in "INFO server" "SET key value" "RPUSH list 1" "KEYS key" "EVAL return(redis.call('get','key')) 0" "SCRIPT LOAD return(1)" \
    "WAIT 0 0" "CLIENT SETNAME app" "PUBLISH channel text" "EVAL return(redis.call('publish','channel','text')) 0" \
    "SORT list" "ROLE" "XADD stream 1-1 a b" "FLUSHDB"; do
    fails says 'NOPERM\|no permission\|ERR' through $command
done
within 20 says '^OK$' through SET key value
says "WRONGPASS\|AUTH failed" cli redis-0123456789-not-for-use 192.168.18.22 6378 --user hanode PING
says 'NOPERM\|no permission' cli redis-sentinel-0123456789-not-for-use 192.168.18.22 6378 --user sentinel GET key
says 'NOPERM\|no permission' cli redis-replica-0123456789-not-for-use 192.168.18.22 6378 --user replica GET key
says 'NOPERM\|no permission' cli redis-sentinel-0123456789-not-for-use 192.168.18.21 6378 --user sentinel SLAVEOF NO ONE
says OK cli redis-sentinel-0123456789-not-for-use 192.168.18.21 6378 --user sentinel SLAVEOF 192.168.18.22 6378

echo "declared users have their keys and commands"
as_user() { # NAME COMMAND...
    user=$1
    shift
    cli "$user-0123456789-not-for-use" 192.168.18.20 6379 --user "$user" "$@"
}
says OK as_user shop SET shop:1 one
says '^one$' as_user shop GET shop:1
says 'NOPERM\|no permission' as_user shop SET other one
says OK through SET report:1 one
says '^one$' as_user reports GET report:1
says 'NOPERM\|no permission' as_user reports GET shop:1
says 'NOPERM\|no permission' as_user reports SET report:1 two
says 'NOPERM\|no permission' as_user reports CONFIG GET masterauth
says 'NOPERM\|no permission' as_user reports CLIENT LIST
for command in FLUSHALL "SWAPDB 0 1" "FUNCTION FLUSH"; do
    says 'NOPERM\|no permission\|unknown command' as_user shop $command
done
# Where a user may have channels, this one is declared.
if grep -q '^user news ' /srv/node1/live/users.conf; then
    says '^[0-9]' as_user news PUBLISH news:today text
    says 'NOPERM\|no permission' as_user news PUBLISH other text
fi
for node in 1 2 3; do
    says PONG administer 192.168.18.2$node PING
    says 'masterauth' administer 192.168.18.2$node CONFIG GET masterauth
done

echo "a failover by hand: two call themselves primary for long, but through HAProxy there is one"
states() { python3 -c '
import socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/haproxy/admin.sock"); s.sendall(b"show stat\n")
rows = [line.split(",") for line in s.makefile().read().splitlines()]
up = [f"{row[0]}/{row[1]}" for row in rows if row[0].startswith("redis_") and row[1].startswith("node") and row[17].startswith("UP")]
print(" ".join(up))'; }
# A replica that Sentinel has not heard of yet (it asks every ten seconds) would be left behind for good.
for replica in 192.168.18.21 192.168.18.23; do
    within 30 says $replica sentinel 1 REPLICAS redis-cluster
done
within 20 says OK sentinel 1 FAILOVER redis-cluster
echo "a Sentinel may not promote; a node's watcher does"
candidate() { sentinel 1 REPLICAS redis-cluster | awk '$0 == "ip" { getline ip } $0 == "flags" { getline; if (/promoted/) print ip }'; }
within 20 says 192.168.18.2 candidate
candidate=$(candidate)
for second in 1 2 3; do
    says role:slave administer "$candidate" INFO replication
    sleep 1
done
says OK administer "$candidate" REPLICAOF NO ONE
both=0 refused=0
for second in 1 2 3 4 5 6 7 8 9 10; do
    up=$(states)
    answer=$(through SET counter $second 2>&1)
    echo "$second $answer, up: $up"
    [ "$(echo "$up" | grep -o redis_primary/ | wc -l)" -lt 2 ] || both=$((both + 1))
    [ "$answer" = OK ] || refused=$((refused + 1))
    sleep 1
done
[ $both -le 3 ] && [ $refused -le 4 ]
within 20 says '^OK$' through SET key value
fails says 192.168.18.22 sentinel 1 GET-MASTER-ADDR-BY-NAME redis-cluster
# Sentinel makes the old primary a replica when it finds the time: on a busy machine that takes a while.
within 120 says min_slaves_good_slaves:2 through INFO replication

echo "Redis rewrites its files for all to read; nobody gets that far"
says '^700 redis' stat -c '%a %U' /srv/node1/live
fails setpriv --reuid=nobody --regid=nogroup --clear-groups cat /srv/node1/live/redis.conf
echo "=== sentinel.conf"
cat /srv/node1/live/sentinel.conf
echo "=== end"

echo "Redis prints each setting as its file has it"
differences() { # HOST PARAMETERS
    administer "$1" CONFIG GET '*' | paste -d' ' - - | sed 's/ *$//' > /tmp/running
    # One line for each setting: a file has one line for each class of output buffers.
    sed -e '/^#/d' -e 's/ ""$//' "$2" | awk '{ name = $1; $1 = ""; all[name] = all[name] $0 } END { for (n in all) print n all[n] }' |
        grep -vxFf /tmp/running || true
}
test "$(wc -l < /srv/node1/live/parameters.conf)" -gt 40
test -z "$(differences 192.168.18.21 /srv/node1/live/parameters.conf)"

echo "a replica's first copy completes while clients write, with the rendered limit of its output buffer"
primary=$(sentinel 2 GET-MASTER-ADDR-BY-NAME redis-cluster | head -n 1)
replica=192.168.18.21
[ $primary != $replica ] || replica=192.168.18.22
on_primary() { administer "$primary" "$@"; }
rendered=$(on_primary CONFIG GET client-output-buffer-limit | tail -n 1)
says OK on_primary EVAL "for i = 1, 20000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end return 'OK'" 0
# The copy takes ten seconds, as that of a large replica would.
says OK on_primary CONFIG SET rdb-key-save-delay 500
copied() { says master_link_status:up administer $replica INFO replication; }
overflows() { cat /srv/node*/log/redis.log | grep -c 'overcoming of output buffer limits' || true; }
copy_while_clients_write() { # LIMIT: 40 MB of writes in ten seconds
    says OK on_primary CONFIG SET client-output-buffer-limit "$1"
    # Redis 8.0 keeps the writes on the replica first.
    says OK administer $replica CONFIG SET client-output-buffer-limit "$1"
    # Another history: the replica needs a whole copy.
    administer $replica REPLICAOF NO ONE
    administer $replica SET own history
    before=$(overflows)
    administer $replica REPLICAOF "$primary" 6378
    on_primary -r 100 -i 0.1 EVAL "redis.call('SET', 'w' .. math.random(9), string.rep('y', 400000)) return 1" 0 > /tmp/writes
    sleep 3
}
# It is repeated, and may succeed once the writes have ended.
copy_while_clients_write "replica 10mb 5mb 2"
test "$(overflows)" -gt "$before"
copy_while_clients_write "$rendered"
within 60 copied
test "$(overflows)" -eq "$before"
says OK on_primary CONFIG SET rdb-key-save-delay 0
within 120 says min_slaves_good_slaves:2 through INFO replication

echo "a lone primary refuses writes, but is reached"
primary=$(sentinel 2 GET-MASTER-ADDR-BY-NAME redis-cluster | head -n 1)
for node in 1 2 3; do
    [ 192.168.18.2$node != "$primary" ] || continue
    # FORCE is known from 7.0 on, which may want it.
    administer 192.168.18.2$node SHUTDOWN NOSAVE FORCE > /tmp/out 2>&1 || true
    ! grep -q 'syntax error' /tmp/out || administer 192.168.18.2$node SHUTDOWN NOSAVE
done
within 20 says NOREPLICAS through SET key other
says '^value$' through GET key
states
echo CHECKED
