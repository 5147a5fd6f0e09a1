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
as postgres patroni /etc/patroni/config.yml > /tmp/patroni.log 2>&1 &
haproxy -W -f /etc/haproxy/haproxy.cfg > /tmp/haproxy.log 2>&1 &

ctl() { patronictl --config-file /etc/patroni/config.yml "$@"; }
within 90 says 'Leader.*running' ctl list
ctl list

echo "roles, and who may come in how"
sql() { as postgres psql --no-psqlrc --tuples-only --no-align --host=/run/postgresql --port=5433 "$@"; }
within 20 says '^admin,dbadmin,replicator,rewind_user$' sql --username=admin --dbname=postgres --command="
    SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin"
verified="sslmode=verify-full sslrootcert=/etc/ssl/myca/root.crt dbname=postgres"
# By name: before 15 libpq looks for no address in a certificate.
through() { PGPASSWORD=$1 psql --no-psqlrc --tuples-only --no-align --command="$2" "$3 $verified"; }
login="SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
within 20 says '^dbadmin|t$' through dbadmin-0123456789-not-for-use "$login" "host=localhost hostaddr=192.168.18.20 port=5432 user=dbadmin"
within 20 says '^dbadmin|t$' through dbadmin-0123456789-not-for-use "$login" "host=localhost hostaddr=192.168.18.20 port=5434 user=dbadmin"
says 'password authentication failed' through wrong "$login" "host=localhost hostaddr=192.168.18.21 port=5433 user=dbadmin"
says 'no encryption\|SSL off' env PGPASSWORD=dbadmin-0123456789-not-for-use psql "host=192.168.18.21 port=5433 user=dbadmin dbname=postgres sslmode=disable"
sql --username=admin --dbname=postgres --command='SHOW synchronous_commit' --command='SHOW ssl' --command='SHOW max_connections' --command='SHOW data_checksums'
# Run again, it changes nothing and complains of nothing.
as postgres psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file=/etc/patroni/roles.sql "host=/run/postgresql port=5433 user=admin dbname=postgres"
fails grep -r 'not-for-use' /var/log/postgresql /var/log/patroni
grep -v 'Failed to get list of machines' /var/log/patroni/patroni.log > /tmp/out
fails grep -E 'ERROR|CRITICAL|Traceback' /tmp/out
grep -h 'FATAL\|ERROR' /var/log/postgresql/*.log

echo "REST: reading is free, changing wants a certificate and the password"
rest() { python3 - "$@" <<'P'
import ssl, sys, urllib.request, urllib.error
method, path, certificate = sys.argv[1:4]
tls = ssl.create_default_context(cafile="/etc/ssl/hanode/ca.crt")
if certificate:
    tls.load_cert_chain(certificate + ".crt", certificate + ".key")
try:
    print(urllib.request.urlopen(urllib.request.Request("https://192.168.18.21:8008" + path, b"{}" if method != "GET" else None, method=method), context=tls).status)
except urllib.error.HTTPError as error:
    print(error.code)
P
}
says 200 rest GET /primary ""
says 403 rest POST /restart ""
says 401 rest POST /restart /etc/ssl/hanode/patroni

echo "Redis through HAProxy"
redis() { REDISCLI_AUTH=redis-0123456789-not-for-use redis-cli -h 192.168.18.20 -p 6379 --tls --cacert /etc/ssl/myca/root.crt "$@"; }
within 20 says role:master redis INFO replication
says NOREPLICAS redis SET key value

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
