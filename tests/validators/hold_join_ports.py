# Holds connections to a port of all nodes from many addresses: EACH from each address to each node, of which a node refuses
# some. A connection that a node closes is opened again, up to 50 times a second and address. Ends with its input.
# usage: hold_join_ports.py PORT ADDRESSES EACH RECORD
#   RECORD: what each connection sends: hexadecimal, or "hello" for a valid start of a handshake
import errno, select, socket, ssl, subprocess, sys, threading, time


def hello():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="node1").do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()


port, count, connections = map(int, sys.argv[1:4])
record = hello() if sys.argv[4] == "hello" else bytes.fromhex(sys.argv[4])
nodes = ["192.168.18.21", "192.168.18.22", "192.168.18.23"]
addresses = ["192.168.18.%d" % n for n in range(66, 66 + count)]
limit = time.monotonic() + 300
ended = threading.Event()


def address(verb):
    for each in addresses:
        subprocess.run(["ip", "address", verb, each + "/32", "dev", "br0"], check=True)


def opened(source, node):
    s = socket.socket()
    s.setblocking(False)
    s.bind((source, 0))
    s.connect_ex((node, port))
    return s


def closed(s):
    try:
        return s.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno != errno.ENOTCONN


def hold(source):
    held = [(node, opened(source, node)) for node in nodes for _ in range(connections)]
    sent = set()
    while not ended.is_set() and time.monotonic() < limit:
        again = 0
        writable = select.select([], [s for _, s in held], [], 0)[1]
        for s in writable:
            if s not in sent:
                sent.add(s)
                try:
                    s.send(record)
                except OSError:
                    pass
        for at, (node, s) in enumerate(held):
            if again < 5 and closed(s):
                s.close()
                sent.discard(s)
                held[at] = (node, opened(source, node))
                again += 1
        time.sleep(0.1)
    for _, s in held:
        s.close()


address("add")
try:
    threads = [threading.Thread(target=hold, args=(each,), daemon=True) for each in addresses]
    for each in threads:
        each.start()
    time.sleep(3)
    print("holding", flush=True)
    while time.monotonic() < limit and not select.select([0], [], [], 1)[0]:
        pass
    ended.set()
    for each in threads:
        each.join()
finally:
    address("delete")
