"""A platform's metadata service for an emulated machine, in the network namespace that the machine is in.

usage: serve.py PLATFORM USER-DATA CONTROL; CONTROL is JSON, read at each request: {"status": 503} answers so,
{"delay": 2} takes so many seconds, {"replace": {"old": "new"}} changes what is answered, {"add": {"key": "value"}} is what
EC2 knows besides.
"""

import json
import sys
import time
from http.server import ThreadingHTTPServer

import endpoints

platform, user_data, control = sys.argv[1:]
with open(user_data) as file:
    endpoints.USER_DATA = file.read()


def told():
    with open(control) as file:
        return json.load(file)


def before():
    time.sleep(told().get("delay", 0))
    return told().get("status")


asked = endpoints.SERVERS[platform]
if platform == "openstack":
    # It answers as EC2 does, too, without its tags.
    endpoints.EC2 = {k: v for k, v in endpoints.EC2.items() if not k.startswith("tags/")}
    asked = lambda path: endpoints.openstack(path) or endpoints.ec2(path)


def answer(path):
    endpoints.EC2.update(told().get("add", {}))
    body = asked(path)
    for old, new in told().get("replace", {}).items():
        body = body and body.replace(old, new)
    print(path, "-" if body is None else len(body), flush=True)
    return body


endpoints.SERVERS[platform] = answer
ThreadingHTTPServer(("", 80), endpoints.handler(platform, before)).serve_forever()
