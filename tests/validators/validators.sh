# The components' own validators. A warning counts as a fault.
haproxy -c -V -f /etc/haproxy/haproxy.cfg > /tmp/out 2>&1 || { cat /tmp/out; exit 1; }
cat /tmp/out
fails grep -E 'ALERT|WARNING' /tmp/out
if [ -e /etc/keepalived/keepalived.conf ]; then
    keepalived --config-test --use-file=/etc/keepalived/keepalived.conf --log-console > /tmp/out 2>&1 || { cat /tmp/out; exit 1; }
    cat /tmp/out
    fails grep -Ei 'security|warning|unknown|truncat' /tmp/out
fi
# Its first run ever makes this file; 3.18 complains that it is not there.
mkdir -p /var/lib/logrotate
[ -e /var/lib/logrotate/status ] || echo 'logrotate state -- version 2' > /var/lib/logrotate/status
logrotate --debug /etc/logrotate.conf > /tmp/out 2>&1
fails grep -Ei 'error|duplicate' /tmp/out
python3 -c '
import json, yaml
config = yaml.safe_load(open("/etc/patroni/config.yml"))
assert config["bootstrap"]["dcs"] == json.load(open("/etc/patroni/dynamic.json"))
parameters = {**config["bootstrap"]["dcs"]["postgresql"]["parameters"], **config["postgresql"]["parameters"]}
for name, value in parameters.items():
    print(name + " = \x27" + value.replace("\x27", "\x27\x27") + "\x27")
' > /tmp/postgresql.conf
# PostgreSQL takes every parameter: it would refuse an unknown one or a bad value.
bin=$(sed -n 's/^ *bin_dir: //p' /etc/patroni/config.yml)
install -d -o postgres -g postgres /tmp/pg
as postgres $bin/initdb --pgdata=/tmp/pg --username=admin --auth=peer --no-sync > /tmp/initdb.log
cat /tmp/postgresql.conf >> /tmp/pg/postgresql.conf
as postgres $bin/postgres -D /tmp/pg -C shared_buffers
while read -r name rest; do
    as postgres $bin/postgres -D /tmp/pg -C "$name" > /dev/null
done < /tmp/postgresql.conf
echo CHECKED
