exec 3>&1
# A node behind its firewall, and machines outside that try every port. Before this come LOAD and RELOAD, functions,
# and UNRELATED, what becomes of a port that is nobody's (open or closed).
python3 - <<'P' &
import select, socket
ports = [22, 2379, 2380, 5432, 5433, 5434, 6378, 6379, 7000, 7080, 7081, 8008, 9100, 9999, 26378]
waiting = {}
for port in ports:
    for family, address in (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::"):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address, port))
        s.listen(64)
        waiting[s.fileno()] = s
vrrp = [socket.socket(family, socket.SOCK_RAW, 112) for family in (socket.AF_INET, socket.AF_INET6)]
waiting.update({s.fileno(): s for s in vrrp})
open("/tmp/listening", "w")
while True:
    for fd in select.select(list(waiting), [], [])[0]:
        if waiting[fd] in vrrp:
            _, (source, *_) = waiting[fd].recvfrom(2048)
            print(source, file=open("/tmp/vrrp", "a"))
        else:
            waiting[fd].accept()[0].close()
P
# What is outside, at the other end of the cable.
unshare --net sleep infinity &
outside=$!
within 10 test -e /tmp/listening
ip link set other netns $outside
out() { nsenter --net=/proc/$outside/ns/net "$@"; }
ip address flush dev host0
for address in 192.168.18.21/24 192.168.18.20/32 fd00::21/64 fd00::20/128; do
    ip address add $address dev host0 $(case $address in *:*) echo nodad;; esac)
done
out ip link set lo up
out ip link set other up
for address in 192.168.18.22/24 192.168.18.5/24 192.168.18.99/24 10.1.0.9/16 172.16.0.9/16 fd00::22/64 fd00::5/64 fd00::99/64 fd00:1::9/64 fd00:2::9/64; do
    out ip address add $address dev other $(case $address in *:*) echo nodad;; esac)
done
ip route add default via 192.168.18.99
ip route add default via fd00::99

cat > /tmp/try.py <<'P'
import os, socket, struct, sys, concurrent.futures
node, operator, client = [2380, 5433], [2379, 8008, 6378, 26378, 7081], [5432, 5434, 6379, 7080]
watch, ssh, own, nobodys = [7000], [22], [9100], [9999]
everything = node + operator + client + watch
version, clients_now, stats, unrelated, allowed = sys.argv[1:6]
refusal = os.environ.get("REFUSAL", "closed")
v4 = version == "4"
name = (lambda n: "192.168.18." + n) if v4 else (lambda n: "fd00::" + n)
first, second = ("10.1.0.9", "172.16.0.9") if v4 else ("fd00:1::9", "fd00:2::9")
may = {
    name("22"): everything,
    name("5"): operator + watch,
    name("99"): [],
    first: client + watch if clients_now == "first" else [],
    second: client + watch if clients_now == "second" else [],
}
for source, ports in may.items():
    ports = set(ports) | set(ssh) | set(watch if stats == "anyone" else [])
    ports |= set(nobodys if unrelated == "open" else []) | set(own if allowed == "allowed" or unrelated == "open" else [])
    may[source] = ports
if clients_now == "none":  # no firewall yet
    may = {source: set(everything + ssh + own + nobodys) for source in may}

def open_from(source, target, port):
    with socket.socket(socket.AF_INET if v4 else socket.AF_INET6) as s:
        s.settimeout(2)
        s.bind((source, 0))
        try:
            s.connect((target, port))
            return True
        except OSError:
            return False

bad = []
with concurrent.futures.ThreadPoolExecutor(100) as pool:
    tries = {(source, target, port): pool.submit(open_from, source, target, port)
             for source in may for target in (name("21"), name("20")) for port in everything + ssh + own + nobodys}
    for (source, target, port), got in tries.items():
        if got.result() != (port in may[source]):
            bad.append(f"{target}:{port} from {source}: {'open' if got.result() else 'closed'}")
print(len(tries), "tried", *bad, sep="\n")
if v4:  # nobody is kept from asking whether a machine is there
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(2)
        s.bind((name("99"), 0))
        s.sendto(struct.pack("!BBHHH", 8, 0, 0xf7fe, 0, 1), (name("21"), 0))
        s.recvfrom(100)
# A SYN in fragments, of which the first has no more than the ports: a closed port still refuses it.
def fragmented_syn(source, target, port):
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    def checksum(data):
        total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
        total = (total >> 16) + (total & 0xffff)
        return ~(total + (total >> 16)) & 0xffff
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 7, 0, 0x50, 2, 1024, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", checksum(addresses + struct.pack("!HH", 6, 20) + tcp)) + tcp[18:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out, \
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as answers:
        answers.settimeout(3)
        for offset, more, part in (0, 0x2000, tcp[:8]), (1, 0, tcp[8:]):
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), port, more | offset, 64, 6, 0)
            out.sendto(head + addresses + part, (target, 0))
        while True:
            try:
                packet = answers.recv(200)
            except socket.timeout:
                return "silent"
            if packet[12:16] == socket.inet_aton(target) and packet[20:24] == struct.pack("!HH", port, 40000):
                return "closed" if packet[33] & 4 else "open"
if v4 and clients_now != "none":
    for source, port in (name("22"), 2380), (name("99"), 2380), (name("99"), 5433), (name("99"), 7081):
        got = fragmented_syn(source, name("21"), port)
        if got != ("open" if port in may[source] else refusal):
            bad.append(f"{port} from {source} by fragments: {got}")
            print(bad[-1])
for source in name("22"), name("99"):
    with socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_RAW, 112) as s:
        s.bind((source, 0))
        s.sendto(b"advertisement", (name("21"), 0))
sys.exit(bool(bad))
P
tried() {
    rm -f /tmp/vrrp
    if ! out python3 /tmp/try.py "$@" > /tmp/out 2>&1; then
        echo "FAILED: $*" >&3
        cat /tmp/out >&3
        SHOW >&3
        exit 1
    fi
    sleep 0.2
    cat /tmp/vrrp
}
if [ "$VERSION" = 6 ]; then node=fd00::22 stranger=fd00::99; else node=192.168.18.22 stranger=192.168.18.99; fi
# Keepalived hears the nodes alone.
heard() {
    if [ "$(cat /tmp/heard)" != "$1" ]; then
        echo "FAILED: VRRP was heard of $(cat /tmp/heard)"
        exit 1
    fi
}

echo "without a firewall all is open: what is closed below is closed by it"
tried $VERSION none "$STATISTICS" open no > /tmp/heard
heard "$node
$stranger"
LOAD
tried $VERSION first "$STATISTICS" $UNRELATED "$ALLOWED" > /tmp/heard
heard "$node"
echo "the machine itself reaches all its ports"
for port in 2380 5433 2379 6379; do
    for at in 127.0.0.1 192.168.18.21 192.168.18.20 ::1 fd00::21; do
        python3 -c "import socket; socket.create_connection(('$at', $port), 3)"
    done
done
echo "other clients: the rules are read again"
cp -R /second/. /
RELOAD
tried $VERSION second "$STATISTICS" $UNRELATED "$ALLOWED" > /tmp/heard
heard "$node"
kill $outside
echo CHECKED
