"""The metadata service of a platform for an emulated machine, in the machine's network namespace.

usage: serve.py PLATFORM USER-DATA CONTROL
CONTROL is a JSON file, read at each request: {"status": 503} responds with this status, {"delay": 2} delays the response
by seconds, {"replace": {"old": "new"}} changes the response, {"add": {"key": "value"}} adds metadata for EC2.
"""

import json
import sys
import time
from http.server import ThreadingHTTPServer

import endpoints

platform, user_data, control = sys.argv[1:]
with open(user_data) as file:
    endpoints.USER_DATA = file.read()


def settings():
    with open(control) as file:
        return json.load(file)


def before():
    time.sleep(settings().get("delay", 0))
    return settings().get("status")


lookup = endpoints.SERVERS[platform]
if platform == "openstack":
    # OpenStack also serves EC2's metadata, without tags.
    endpoints.EC2 = {k: v for k, v in endpoints.EC2.items() if not k.startswith("tags/")}
    lookup = lambda path: endpoints.openstack(path) or endpoints.ec2(path)


def answer(path):
    endpoints.EC2.update(settings().get("add", {}))
    body = lookup(path)
    for old, new in settings().get("replace", {}).items():
        body = body and body.replace(old, new)
    print(path, "-" if body is None else len(body), flush=True)
    return body


endpoints.SERVERS[platform] = answer
ThreadingHTTPServer(("", 80), endpoints.handler(platform, before)).serve_forever()
