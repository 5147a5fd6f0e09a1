#!/bin/sh
# `make demo`: builds one image, runs a three-node cluster from it on this machine, reads and writes through the virtual
# IP from outside the nodes, and takes everything down.
set -eu
hanode=${1:?usage: demo.sh PROGRAM}
dir=$(mktemp -d "${TMPDIR:-/tmp}/hanode-demo-XXXXXX")
cluster=$dir/demo
step() { printf '\n== %s\n' "$*"; }
finish() {
	code=$?
	trap - EXIT INT TERM
	[ ! -d "$cluster" ] || "$hanode" lab down "$cluster" || code=1
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

step "create a cluster directory: names, addresses, two CAs, passwords"
"$hanode" init "$cluster" | head -1
step "build one image for all nodes (the first build installs the distribution's packages and takes minutes)"
"$hanode" build "$cluster" --target debian-13 --out "$dir/node.qcow2"
step "three machines booted from it; each gets its name from cloud-init"
"$hanode" lab up "$cluster" --image "$dir/node.qcow2"
step "hanode status"
"$hanode" lab status "$cluster"

ca=$cluster/pki/service/ca.crt
secret() { sed -n "s/^$1 *= *\"\(.*\)\"/\1/p" "$cluster/secrets.toml"; }
outside() { "$hanode" lab client "$cluster" -- "$@"; }
vip=192.168.18.20
PGPASSWORD=$(secret postgres_app)
REDISCLI_AUTH=$(secret redis)
export PGPASSWORD REDISCLI_AUTH
sql() { outside psql -XAtq -c "$2" "host=$vip port=$1 user=app dbname=app sslmode=verify-full sslrootcert=$ca"; }
redis() { outside redis-cli --tls --cacert "$ca" -h "$vip" -p 6379 "$@"; }

step "PostgreSQL through $vip:5432 with full verification of the certificate"
sql 5432 "CREATE TABLE demo (word text); INSERT INTO demo VALUES ('written through the virtual IP')"
sql 5432 "SELECT word, 'TLS: ' || ssl FROM demo, pg_stat_ssl WHERE pid = pg_backend_pid()"
[ "$(sql 5432 "SELECT count(*) FROM demo")" = 1 ]
step "Redis through $vip:6379 with verification of the certificate"
[ "$(redis set demo 'written through the virtual IP')" = OK ]
redis get demo
[ "$(redis get demo)" = "written through the virtual IP" ]
step "fetch the revocation list from the virtual IP and verify a certificate against it"
outside curl -sSf -o "$dir/server.crl" "http://$vip:7080/server.crl"
openssl crl -inform DER -in "$dir/server.crl" -out "$dir/server.pem"
openssl verify -crl_check -CAfile "$ca" -CRLfile "$dir/server.pem" "$cluster/pki/service/leaves/pgsql.crt" | sed "s#$dir/##"
step "done; removing the cluster"
