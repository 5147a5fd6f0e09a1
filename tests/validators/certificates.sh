# Two CAs, their leaves and CRLs, where the rendered files look for them; OpenSSL 1.1.1 suffices.
mkdir -p /etc/ssl/hanode /etc/ssl/myca /etc/ssl/pgsql /etc/ssl/redis /etc/ssl/haproxy /tmp/ca
chmod 0755 /etc/ssl/hanode /etc/ssl/myca /etc/ssl/pgsql /etc/ssl/redis
sans=DNS:node1,DNS:node2,DNS:node3,DNS:localhost,IP:127.0.0.1,IP:192.168.18.20,IP:192.168.18.21,IP:192.168.18.22,IP:192.168.18.23

authority() { # NAME
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$1" \
        -addext keyUsage=critical,keyCertSign,cRLSign -keyout "/tmp/ca/$1.key" -out "/tmp/ca/$1.crt"
    : > "/tmp/ca/$1.index"
    printf '[ca]\ndefault_ca = it\n[it]\ndatabase = /tmp/ca/%s.index\ndefault_md = sha256\n' "$1" > "/tmp/ca/$1.cnf"
}
leaf() { # CA OUT OWNER [NAME]
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=${4:-$3}" -keyout "$2.key" -out /tmp/ca/request
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n' "$sans" > /tmp/ca/extensions
    openssl x509 -req -in /tmp/ca/request -days 30 -CA "/tmp/ca/$1.crt" -CAkey "/tmp/ca/$1.key" \
        -set_serial "0x$(openssl rand -hex 8)" -extfile /tmp/ca/extensions -out "$2.crt"
    chown "$3" "$2.key"
    chmod 0600 "$2.key"
}
crl() { # CA OUT
    openssl ca -config "/tmp/ca/$1.cnf" -gencrl -keyfile "/tmp/ca/$1.key" -cert "/tmp/ca/$1.crt" -crldays 30 -out "$2"
}

{
    authority service
    authority cluster
    cp /tmp/ca/service.crt /etc/ssl/myca/root.crt
    cp /tmp/ca/cluster.crt /etc/ssl/hanode/ca.crt
    leaf cluster /etc/ssl/hanode/etcd etcd
    leaf cluster /etc/ssl/hanode/patroni postgres
    leaf service /etc/ssl/pgsql/server postgres
    leaf service /etc/ssl/pgsql/replicator postgres replicator
    leaf service /etc/ssl/pgsql/rewind_user postgres rewind_user
    leaf service /tmp/ca/dbadmin root dbadmin
    leaf service /etc/ssl/redis/server redis
    leaf service /etc/ssl/haproxy/server root
    cat /etc/ssl/redis/server.crt /etc/ssl/redis/server.key > /etc/ssl/haproxy/server.crt
    # One revoked leaf in each CRL, as the servers load none that is empty.
    for ca in service cluster; do
        leaf $ca /tmp/ca/revoked-$ca root
        openssl ca -config /tmp/ca/$ca.cnf -keyfile /tmp/ca/$ca.key -cert /tmp/ca/$ca.crt -revoke /tmp/ca/revoked-$ca.crt
    done
    crl service /etc/ssl/myca/server.crl
    crl cluster /etc/ssl/hanode/ca.crl
} > /tmp/ca/log 2>&1 || { cat /tmp/ca/log; exit 1; }
