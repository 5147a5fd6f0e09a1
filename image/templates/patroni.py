#!/usr/bin/python3
# written by hanode for {{ node.name }}; edits are overwritten
"""Starts the distribution's Patroni with checks that Patroni does not have:

- Certificates on the cluster's revocation list are refused, by the REST interface and by Patroni as a client.
- A reload takes certificate, CA and revocation list from the disk in every case and without closing the port. Patroni
  itself keeps the old certificate if its configuration changes in the same reload.
- Without a certificate, only the addresses in `restapi.read_allowlist` can read.
- Of TLS 1.2 only the suites that the other servers accept are accepted.
- Patroni verifies the other members before it sends them its password.
"""
import ipaddress
import logging
import os
import runpy
import socket
import ssl
import sys

PATRONI = "{{ paths.patroni_program }}"
CA = "/etc/ssl/hanode/ca.crt"
CERTIFICATE = "/etc/ssl/hanode/patroni.crt"
KEY = "/etc/ssl/hanode/patroni.key"
# A link that exists once the list has entries: a list that has expired refuses every certificate.
REVOKED = "/etc/ssl/hanode/enforced.crl"
SUITES = "{{ tls_suites }}"

# Where Patroni is if it is installed from its wheel.
sys.path.insert(0, "/usr/local/lib/patroni")
from patroni.api import RestApiHandler, RestApiServer
from patroni.request import PatroniRequest

load_verify_locations = ssl.SSLContext.load_verify_locations
reload_config = RestApiServer.reload_config
parse_request = RestApiHandler.parse_request
request = PatroniRequest.__init__


def load_with_revocation_list(context, cafile=None, *others, **more):
    load_verify_locations(context, cafile, *others, **more)
    if cafile == CA:
        context.set_ciphers(SUITES)
    if cafile == CA and os.path.exists(REVOKED):
        load_verify_locations(context, REVOKED)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def reload_files(server):
    """Replaces the TLS context of the listening socket; a new one also ends the resumption of earlier sessions."""
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CA)
        context.load_cert_chain(CERTIFICATE, KEY)
        context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:
        logging.getLogger("patroni.api").error("The REST interface keeps its old certificate: %s", error)
        return
    old = server.socket
    same = socket.socket(old.family, old.type, old.proto, old.detach())
    server.socket = context.wrap_socket(
        same, server_side=True, do_handshake_on_connect=old.do_handshake_on_connect
    )


def reload_config_and_files(server, config):
    server.readers = [ipaddress.ip_network(net) for net in config.get("read_allowlist", [])]
    # The first call, from the constructor, creates the socket.
    if getattr(server, "socket", None):
        reload_files(server)
    reload_config(server, config)


def parse_allowed_request(handler):
    if not parse_request(handler):
        return False
    address = ipaddress.ip_address(handler.client_address[0])
    if handler.request.getpeercert() or any(address in net for net in handler.server.readers):
        return True
    handler.send_error(403, "a client certificate is required")
    return False


ssl.SSLContext.load_verify_locations = load_with_revocation_list
# Called in a reload that does not change Patroni's configuration.
RestApiServer.reload_local_certificate = reload_files
RestApiServer.reload_config = reload_config_and_files
RestApiHandler.parse_request = parse_allowed_request
# Patroni passes insecure=True.
PatroniRequest.__init__ = lambda self, config, insecure=False: request(self, config)

if __name__ == "__main__":
    sys.argv[0] = PATRONI
    runpy.run_path(PATRONI, run_name="__main__")
