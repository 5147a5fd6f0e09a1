# One whole node but for its peers: etcd, Patroni, PostgreSQL, Redis, HAProxy, each on its rendered file.
runtime
etcd_ctl() { etcdctl --endpoints=https://192.168.18.21:2379 --cacert=/etc/ssl/hanode/ca.crt "$@"; }
cluster="--cert=/etc/ssl/hanode/etcd.crt --key=/etc/ssl/hanode/etcd.key"
(set -a; . /etc/default/etcd; as etcd etcd > /tmp/etcd.log 2>&1) &
within 30 etcd_ctl $cluster endpoint health
fails etcd_ctl --command-timeout=2s endpoint health > /dev/null 2>&1
python3 -c '
import urllib.request; urllib.request.urlopen("http://127.0.0.1:2381/health")'

as redis redis-server /var/lib/redis/hanode/redis.conf > /tmp/redis.log 2>&1 &
# Its one complaint is of the two peers that are not there; 2.1 wants a key too that the local pg_hba overrides.
as postgres patroni --validate-config /etc/patroni/config.yml > /tmp/out 2>&1 || true
fails grep -v -e "^etcd3.hosts.[12] .* is not reachable" -e '^bootstrap.pg_hba  is not defined.$' -e '^$' /tmp/out
as postgres /usr/lib/hanode/patroni /etc/patroni/config.yml > /tmp/patroni.log 2>&1 &
haproxy -W -f /etc/haproxy/haproxy.cfg > /tmp/haproxy.log 2>&1 &

ctl() { patronictl --config-file /etc/patroni/config.yml "$@"; }
within 90 says 'Leader.*running' ctl list
ctl list

echo "roles, and who may come in how"
sql() { as postgres psql --no-psqlrc --tuples-only --no-align --host=/run/postgresql --port=5433 "$@"; }
within 20 says '^admin,app,dbadmin,replicator,rewind_user$' sql --username=admin --dbname=postgres --command="
    SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin"
verified="sslmode=verify-full sslrootcert=/etc/ssl/myca/root.crt"
# By name: before 15 libpq looks for no address in a certificate.
through() { # PASSWORD STATEMENT TARGET
    PGPASSWORD=$1 psql --no-psqlrc --tuples-only --no-align --command="$2" "host=localhost $verified dbname=postgres $3"
}
login="SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
app=app-0123456789-not-for-use dbadmin=dbadmin-0123456789-not-for-use
within 20 says '^app|t$' through $app "$login" "hostaddr=192.168.18.20 port=5432 user=app dbname=app"
within 20 says '^app|t$' through $app "$login" "hostaddr=192.168.18.20 port=5434 user=app dbname=app"
says 'CREATE TABLE' through $app "CREATE TABLE own (n int)" "hostaddr=192.168.18.20 port=5432 user=app dbname=app"
says 'password authentication failed' through wrong "$login" "hostaddr=192.168.18.21 port=5433 user=app"
says 'no encryption\|SSL off' env PGPASSWORD=$app psql "host=192.168.18.21 port=5433 user=app dbname=app sslmode=disable"

echo "roles of nodes and administrators: no password suffices"
cp /etc/ssl/pgsql/replicator.crt /etc/ssl/pgsql/replicator.key /tmp/ca/
for at in "hostaddr=192.168.18.20 port=5432" "hostaddr=192.168.18.20 port=5434" "hostaddr=192.168.18.21 port=5433" "hostaddr=127.0.0.1 port=5433"; do
    # The wording is that of PostgreSQL 12, and of 14 and later.
    refused='requires a valid client certificate\|pg_hba.conf rejects connection\|certificate authentication failed'
    says "$refused" through $dbadmin "COPY (SELECT 1) TO PROGRAM 'touch /tmp/owned'" "$at user=dbadmin"
    says "$refused" through admin-0123456789-not-for-use "$login" "$at user=admin"
    says "$refused" through replicator-0123456789-not-for-use "$login" "$at user=replicator"
    says "$refused" through replicator-0123456789-not-for-use IDENTIFY_SYSTEM "$at user=replicator replication=1"
    says "$refused" through rewind-0123456789-not-for-use "$login" "$at user=rewind_user"
    # The certificate of another role, and the right one without the password.
    as_role() { echo "$at user=dbadmin sslcert=/tmp/ca/$1.crt sslkey=/tmp/ca/$1.key"; }
    says "$refused\|password authentication failed" through $dbadmin "$login" "$(as_role replicator)"
    says 'password authentication failed' through wrong "$login" "$(as_role dbadmin)"
    says '^dbadmin|t$' through $dbadmin "$login" "$(as_role dbadmin)"
    admin="$at user=admin sslcert=/tmp/ca/dbadmin.crt sslkey=/tmp/ca/dbadmin.key"
    says "$refused" through admin-0123456789-not-for-use "$login" "$admin"
done
fails test -e /tmp/owned
says 'systemid\|^7' through replicator-0123456789-not-for-use IDENTIFY_SYSTEM \
    "hostaddr=192.168.18.21 port=5433 user=replicator replication=1 sslcert=/tmp/ca/replicator.crt sslkey=/tmp/ca/replicator.key"
sql --username=admin --dbname=postgres --command='SHOW synchronous_commit' --command='SHOW ssl' --command='SHOW max_connections' --command='SHOW data_checksums'
# Run again, it changes nothing and complains of nothing.
as postgres psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file=/etc/patroni/roles.sql "host=/run/postgresql port=5433 user=admin dbname=postgres"
echo "declared roles and databases: created, altered, compared"
run() { as postgres psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --file=/etc/patroni/$1.sql \
    "host=/run/postgresql port=5433 user=admin dbname=postgres"; }
run drift > /tmp/out
for missing in "role reports does not exist" "role bot does not exist" "database reports does not exist"; do
    grep -x "$missing" /tmp/out
done
fails grep 'role app' /tmp/out
run declared
# Patroni creates the slots in its next loop.
no_drift() { run drift > /tmp/out && ! grep . /tmp/out; }
within 40 no_drift
run declared > /tmp/out
fails grep . /tmp/out
reports=reports-0123456789-not-for-use at="hostaddr=192.168.18.20 port=5432"
within 20 says '^5min$' through $reports 'SHOW statement_timeout' "$at user=reports dbname=reports"
says '^reports, public$' through $reports 'SHOW search_path' "$at user=reports dbname=reports"
says 'CREATE TABLE' through $reports 'CREATE TABLE own (n int)' "$at user=reports dbname=reports"
says 'pg_hba.conf rejects' through $app 'SELECT 1' "$at user=app dbname=reports"
says 'requires a valid client certificate\|certificate authentication failed' through x 'SELECT 1' "$at user=bot dbname=app"
leaf service /tmp/ca/bot root bot > /tmp/ca/log 2>&1
says '^bot$' through '' 'SELECT current_user' "$at user=bot dbname=app sslcert=/tmp/ca/bot.crt sslkey=/tmp/ca/bot.key"
sql --username=admin --dbname=postgres --command="
    ALTER ROLE reports CONNECTION LIMIT 6 PASSWORD 'other'; ALTER ROLE readers LOGIN; REVOKE readers FROM reports;
    ALTER ROLE reports SET statement_timeout = '6min'; ALTER DATABASE reports OWNER TO app; CREATE ROLE other LOGIN SUPERUSER"
run drift > /tmp/out
for difference in "role reports has another connection limit" "role reports has another password" "role readers can log in" \
    "role reports is not a member of readers" "role reports has another statement_timeout" "database reports has another owner" \
    "role other is a superuser, and clients can log in with its password"; do
    grep -x "$difference" /tmp/out
done
sql --username=admin --dbname=postgres --command='DROP ROLE other'
run declared
run drift > /tmp/out
fails grep . /tmp/out
fails grep -r 'not-for-use\|SCRAM-SHA' /var/log/postgresql /var/log/patroni
# Until the database of a slot is declared, Patroni cannot create the slot.
awk '/Exception when changing replication slots/ { skip = 1; next } /^20/ { skip = 0 } !skip' /var/log/patroni/patroni.log |
    grep -v 'Failed to get list of machines' > /tmp/out
fails grep -E 'ERROR|CRITICAL|Traceback' /tmp/out
grep -h 'FATAL\|ERROR' /var/log/postgresql/*.log

echo "REST: who can read and change what"
# rest METHOD PATH CERTIFICATE [PASSWORD] [SOURCE] [BODY]: the status, or "refused"
rest() { python3 - "$@" <<'P'
import base64, http.client, ssl, sys
method, path, certificate, password, source, body = (sys.argv[1:] + ["", "", ""])[:6]
tls = ssl.create_default_context(cafile="/etc/ssl/hanode/ca.crt")
if certificate:
    tls.load_cert_chain(certificate + ".crt", certificate + ".key")
login = base64.b64encode(("patroni:" + password).encode()).decode()
headers = {"Authorization": "Basic " + login} if password else {}
server = http.client.HTTPSConnection("192.168.18.21", 8008, context=tls, source_address=(source or "192.168.18.21", 0))
try:
    server.request(method, path, body or (None if method == "GET" else '{"loop_wait": 10}'), headers)
    print(server.getresponse().status)
except ssl.SSLError as error:
    print("refused:", error.reason)
P
}
own=/etc/ssl/hanode/patroni revoked=/tmp/ca/revoked-cluster password=rest-0123456789-not-for-use stranger=192.168.18.24
says 200 rest GET /primary ""
says 200 rest OPTIONS /primary ""
says 403 rest GET /config "" "" $stranger
says 403 rest OPTIONS /primary "" "" $stranger
says 200 rest GET /config $own "" $stranger
says 403 rest POST /restart ""
says 401 rest POST /restart $own
says 200 rest PATCH /config $own $password 192.168.18.22
says 403 rest PATCH /config $own $password $stranger

echo "REST: a revoked certificate, before and after a reload"
patroni=$(pgrep -f '^/usr/bin/python3 /usr/lib/hanode/patroni')
postgres=$(head -n 1 /var/lib/postgresql/*/hanode/postmaster.pid)
fails test -e /etc/ssl/hanode/enforced.crl
code='{"postgresql": {"callbacks": {"on_reload": "/bin/true"}}}'
says 200 rest PATCH /config $revoked $password "" "$code"
says 200 rest PATCH /config $own $password "" '{"postgresql": {"callbacks": null}}'
# A client that holds a connection without a handshake must not hinder the reload.
python3 -c 'import socket, time
held = socket.create_connection(("192.168.18.21", 8008)); time.sleep(300)' &
python3 - > /tmp/refused 2>&1 <<'P' &
import os, socket, time
while not os.path.exists("/tmp/stop"):
    socket.create_connection(("192.168.18.21", 8008), 2).close(); time.sleep(0.01)
P
attempts=$!
ln -s ca.crl /etc/ssl/hanode/enforced.crl
kill -HUP $patroni
within 20 says 'refused:.*REVOKED' rest PATCH /config $revoked $password
# A client of TLS 1.3 may see a reset before it reads the reason.
within 20 says 'refused:.*REVOKED' rest GET /config $revoked
says 200 rest PATCH /config $own $password
says 200 rest GET /primary ""
says running ctl list

echo "REST: one more certificate is revoked"
leaf cluster /tmp/ca/second root > /tmp/ca/log 2>&1
says 200 rest GET /config /tmp/ca/second
openssl ca -config /tmp/ca/cluster.cnf -keyfile /tmp/ca/cluster.key -cert /tmp/ca/cluster.crt -revoke /tmp/ca/second.crt > /tmp/ca/log 2>&1
crl cluster /etc/ssl/hanode/ca.crl > /tmp/ca/log 2>&1
says 200 rest GET /config /tmp/ca/second
kill -HUP $patroni
within 20 says 'refused:.*REVOKED' rest GET /config /tmp/ca/second

echo "REST: certificate and configuration change in one reload"
serial() { echo | openssl s_client -connect 192.168.18.21:8008 2>/dev/null | openssl x509 -noout -serial; }
earlier=$(serial)
leaf cluster $own postgres > /tmp/ca/log 2>&1
sed -i 's/^  level: INFO/  level: DEBUG/' /etc/patroni/config.yml
test "$(serial)" = "$earlier"
kill -HUP $patroni
within 20 says "$(openssl x509 -noout -serial -in $own.crt)" serial
within 20 says running ctl list
kill -0 $patroni
test "$(head -n 1 /var/lib/postgresql/*/hanode/postmaster.pid)" = "$postgres"
kill -0 $attempts
touch /tmp/stop
wait $attempts
fails grep . /tmp/refused

echo "Patroni as a client verifies servers before it sends its password"
query() { # CERTIFICATE PORT
    openssl s_server -quiet -www -accept "192.168.18.22:$2" -cert "$1.crt" -key "$1.key" > /tmp/s_server 2>&1 &
    server=$!
    python3 - "https://192.168.18.22:$2/" <<'P'
import runpy, socket, sys, time, urllib3, yaml
runpy.run_path("/usr/lib/hanode/patroni")
from patroni.request import PatroniRequest
config = yaml.safe_load(open("/etc/patroni/config.yml"))
config["restapi"]["auth"] = "patroni:secret"
time.sleep(1)
try:
    print(PatroniRequest(config, True).request("GET", sys.argv[1], retries=False).status)
except urllib3.exceptions.HTTPError as error:
    print("refused:", error)
P
    kill $server
}
says 200 query /etc/ssl/hanode/etcd 9001
says 'refused:.*revoked' query /tmp/ca/revoked-cluster 9002
says 'refused:.*verify failed' query /etc/ssl/redis/server 9003

echo "Redis through HAProxy"
redis() { REDISCLI_AUTH=redis-0123456789-not-for-use redis-cli -h 192.168.18.20 -p 6379 --tls --cacert /etc/ssl/myca/root.crt "$@"; }
within 20 says role:master redis INFO replication
says NOREPLICAS redis SET key value

echo "TLS 1.2: suites with CBC or without forward secrecy are refused"
suite() { # PORT SUITES [OPTION...]: the suite that the server chooses, or nothing
    port=$1 suites=$2
    shift 2
    openssl s_client -connect "192.168.18.21:$port" -tls1_2 -cipher "$suites:@SECLEVEL=0" "$@" \
        < /dev/null 2>&1 | sed -n 's/^ *Cipher *: \([A-Z0-9-]*[A-Z].*\)/\1/p'
}
for port in 2379 2380 5433 6378 6379 8008; do
    case $port in
        5433) options="-starttls postgres" ;;
        23*) options="-cert $own.crt -key $own.key" ;;
        *) options= ;;
    esac
    says 'ECDHE-ECDSA-AES.*GCM' suite $port ALL:COMPLEMENTOFALL $options
    for weak in ECDHE-ECDSA-AES128-SHA ECDHE-ECDSA-AES256-SHA ECDHE-ECDSA-AES128-SHA256 ECDHE-ECDSA-AES256-SHA384; do
        chosen=$(suite $port $weak $options)
        test -z "$chosen" || { echo "port $port accepts $chosen"; exit 1; }
    done
done

echo "etcd's metrics: only on the loopback address, and no data there"
metrics() { python3 -c '
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=3).status)
except urllib.error.HTTPError as error: print(error.code)
except OSError as error: print(error)' "$1"; }
says refused metrics http://192.168.18.21:2381/metrics
for path in v2/keys v3/kv/range v3/cluster/member/list members debug/pprof/ debug/vars config/local/log; do
    says 404 metrics http://127.0.0.1:2381/$path
done

echo "statistics, health and the CRL"
page() { python3 -c '
import base64, sys, urllib.request, urllib.error
request = urllib.request.Request(sys.argv[1])
if sys.argv[2]: request.add_header("Authorization", "Basic " + base64.b64encode(sys.argv[2].encode()).decode())
try:
    answer = urllib.request.urlopen(request); sys.stdout.buffer.write(answer.read())
except urllib.error.HTTPError as error: print(error.code)
' "$@"; }
says 401 page http://192.168.18.20:7000/ ""
says 'Statistics Report' page http://192.168.18.20:7000/ stats:stats-0123456789-not-for-use
says '200 OK' page http://127.0.0.1:7000/health ""
page http://192.168.18.20:7080/server.crl "" | cmp - /tmp-crl
says 403 page http://192.168.18.20:7080/other ""
page 'http://192.168.18.20:7000/;csv' stats:stats-0123456789-not-for-use | cut -d, -f1,2,18 | grep -v FRONTEND
echo CHECKED
