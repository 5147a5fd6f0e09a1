# Clients that hold idle connections, against the rendered haproxy.cfg with simulated servers. During each attack /health
# answers and clients with other addresses are served; after it all clients are served at once.
# usage: held.py HAPROXY-COMMAND...     in a network namespace that has the nodes' addresses on host0
import asyncio, resource, signal, socket, ssl, subprocess, sys, threading, time

NODES = ["192.168.18.21", "192.168.18.22", "192.168.18.23"]
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
ATTACKERS = ["192.168.18.%d" % n for n in range(66, 72)]
OTHER = "192.168.18.99"
ROOT = sys.argv[1]
HAPROXY = sys.argv[2:]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
for address in ATTACKERS + [OTHER]:
    subprocess.run(["ip", "address", "add", address + "/24", "dev", "host0"], check=True)


def context(name):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(ROOT + name + ".crt", ROOT + name + ".key")
    return tls


async def patroni(reader, writer):
    role = ((await reader.readline()).split() + [b"", b""])[1]
    here = writer.get_extra_info("sockname")[0]
    good = (here == NODES[0]) == (role == b"/primary")
    writer.write(b"HTTP/1.0 %s x\r\ncontent-length: 0\r\n\r\n" % (b"200" if good else b"503"))
    await writer.drain()
    writer.close()


# As PostgreSQL with authentication_timeout = 10s: closes a connection that requests TLS and sends nothing more.
async def postgres(reader, writer):
    try:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        await asyncio.wait_for(reader.readexactly(4), 10)
        while True:
            writer.write(b"PONG")
            await reader.readexactly(4)
    except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


async def redis(reader, writer):
    try:
        while line := await reader.readline():
            if line.startswith(b"INFO"):
                writer.write(b"role:master\r\nmin_slaves_good_slaves:1\r\n")
            elif line.startswith(b"QUIT"):
                break
            elif line.startswith(b"PING"):
                writer.write(b"PONG")
    except OSError:
        pass
    finally:
        writer.close()


async def servers(ready):
    for node in NODES:
        await asyncio.start_server(patroni, node, 8008, ssl=context("/etc/ssl/hanode/patroni"))
        await asyncio.start_server(postgres, node, 5433, backlog=4096)
        await asyncio.start_server(redis, node, 6378, ssl=context("/etc/ssl/redis/server"), backlog=4096)
    ready.set()
    await asyncio.sleep(3600)


def connect(port, source, limit=20):
    return socket.create_connection((NODES[0], port), limit, (source, 0))


def write_postgres(source=OTHER):
    with connect(5432, source) as s:
        s.sendall(SSL_REQUEST)
        assert s.recv(1) == b"S", "no answer"
        s.sendall(b"PING")
        assert s.recv(4) == b"PONG"


def write_redis(source=OTHER):
    tls = ssl.create_default_context(cafile=ROOT + "/etc/ssl/myca/root.crt")
    with connect(6379, source) as raw, tls.wrap_socket(raw, server_hostname="node1") as s:
        s.sendall(b"PING\r\n")
        assert s.recv(4) == b"PONG", "no answer"


def health(address="127.0.0.1", source="127.0.0.1"):
    with socket.create_connection((address, 7000), 2, (source, 0)) as s:
        s.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        answer = s.recv(12)
        assert answer.endswith(b" 200"), answer


def timed(action):
    start = time.monotonic()
    action()
    return time.monotonic() - start


def within(seconds, action):
    end = time.monotonic() + seconds
    while True:
        try:
            return timed(action)
        except (OSError, AssertionError) as error:
            if time.monotonic() > end:
                raise SystemExit(f"FAILED: {action.__name__} not within {seconds} s: {error!r}")
            time.sleep(0.2)


# Opens `each` connections from each address and sends `data` on each; reads nothing.
def hold(port, sources, each, data=b""):
    held = []
    for source in sources:
        for _ in range(each):
            s = socket.socket()
            s.setblocking(False)
            s.bind((source, 0))
            s.connect_ex((NODES[0], port))
            held.append(s)
    time.sleep(0.5)
    for s in held:
        try:
            s.send(data)
        except OSError:
            pass
    return held


def attack(name, port, sources, each, data=b"", limit=3, rounds=3):
    start = time.monotonic()
    held = hold(port, sources, each, data)
    worst = {}
    for _ in range(rounds):
        for action in (health, write_postgres, write_redis):
            try:
                seconds = timed(action)
            except (OSError, AssertionError) as error:
                raise SystemExit(f"FAILED: {name}: {action.__name__} during the attack: {error!r}")
            worst[action.__name__] = max(seconds, worst.get(action.__name__, 0))
        time.sleep(0.5)
    slow = {k: round(v, 2) for k, v in worst.items() if v > limit}
    if slow:
        raise SystemExit(f"FAILED: {name}: slower than {limit} s: {slow}")
    for s in held:
        s.close()
    after = [round(within(5, w), 2) for w in (health, write_postgres, write_redis)]
    print(f"{name}: {len(held)} connections, slowest {({k: round(v, 2) for k, v in worst.items()})} s, "
          f"after the attack {after} s, {time.monotonic() - start:.0f} s in total", flush=True)


# HAProxy closes established sessions that stay idle after days, not minutes. A session that a client has just closed
# may still be listed, with seconds.
def session_limits():
    limits = {}
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/run/haproxy/admin.sock")
        s.sendall(b"show sess\n")
        for line in s.makefile():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if words.get("src", "").startswith(OTHER + ":") and "exp" in words:
                limits.setdefault(words["be"], []).append(words["exp"])
    short = [be for be in ("postgres_primary", "redis_primary") if not any("d" in exp for exp in limits.get(be, []))]
    if short:
        raise SystemExit(f"FAILED: idle sessions are closed too early: {limits}")


# Established sessions stay open while they are idle.
def idle_sessions():
    tls = ssl.create_default_context(cafile=ROOT + "/etc/ssl/myca/root.crt")
    with connect(5432, OTHER) as p, connect(6379, OTHER) as raw, tls.wrap_socket(raw, server_hostname="node1") as r:
        p.sendall(SSL_REQUEST)
        assert p.recv(1) == b"S"
        for _ in range(2):
            p.sendall(b"PING")
            r.sendall(b"PING\r\n")
            assert p.recv(4) == b"PONG" and r.recv(4) == b"PONG", "an idle session was closed"
            yield


def main():
    ready = threading.Event()
    threading.Thread(target=lambda: asyncio.run(servers(ready)), daemon=True).start()
    ready.wait()
    haproxy = subprocess.Popen(HAPROXY)
    try:
        for action in (health, write_postgres, write_redis):
            within(15, action)
        idle = idle_sessions()
        next(idle)
        start = time.monotonic()
        one, six = ATTACKERS[:1], ATTACKERS
        attack("idle connections to port 6379, one address", 6379, one, 8400)
        attack("idle connections to port 6379, six addresses", 6379, six, 700, b"", 8)
        attack("idle connections to port 5432, one address", 5432, one, 800)
        attack("idle connections to port 5432, six addresses", 5432, six, 140)
        attack("half-open PostgreSQL, one address", 5432, one, 400, SSL_REQUEST)
        attack("half-open PostgreSQL, six addresses", 5432, six, 64, SSL_REQUEST, 17, 1)
        attack("idle connections to port 7000, one address", 7000, one, 1000)
        attack("idle connections to port 7000, six addresses", 7000, six, 150)
        time.sleep(max(0, 35 - (time.monotonic() - start)))
        session_limits()
        next(idle)
        print("CHECKED")
    finally:
        haproxy.send_signal(signal.SIGTERM)
        haproxy.wait()


main()
