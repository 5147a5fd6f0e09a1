"""The metadata services of the platforms, as far as cloud-init and hanode query them.

record.py serves them on loopback, serve.py to an emulated machine. USER_DATA is the operator's user-data, or None.
"""

import base64
import json
from http.server import BaseHTTPRequestHandler

MANY_CLOUDS = "169.254.169.254"
AZURE_WIRE = "168.63.129.16"
UUID = "ec2e1916-9099-7caf-fd21-012345abcdef"

EC2 = {
    "instance-id": "i-0123456789abcdef0",
    "local-hostname": "ip-10-0-0-22.internal",
    "hostname": "ip-10-0-0-22.internal",
    "local-ipv4": "10.0.0.22",
    "placement/availability-zone": "eu-central-1a",
    "placement/region": "eu-central-1",
    "tags/instance/hanode_node": "node2",
    "tags/instance/Name": "database",
}
OPENSTACK = {
    "uuid": "8e6c2b5e-0f6c-4f57-9a2f-6d1f9ac0a1c2",
    "hostname": "vm-2.novalocal",
    "name": "vm-2",
    "launch_index": 0,
    "availability_zone": "nova",
    "meta": {"hanode_node": "node2"},
}
GCE = {
    "instance/id": "4520031799277581759",
    "instance/zone": "projects/1/zones/europe-west3-a",
    "instance/hostname": "vm-2.c.project.internal",
    "instance/attributes/": json.dumps({"hanode_node": "node2"}),
    "project/attributes/": "{}",
}
AZURE = {
    "compute": {
        "azEnvironment": "AzurePublicCloud",
        "location": "westeurope",
        "name": "vm-2",
        "osProfile": {"adminUsername": "admin", "computerName": "vm-2", "disablePasswordAuthentication": "true"},
        "publicKeys": [],
        "tags": "hanode_node:node2;team:data",
        "tagsList": [{"name": "hanode_node", "value": "node2"}, {"name": "team", "value": "data"}],
        "vmId": UUID,
        "zone": "1",
    },
    "network": {
        "interface": [
            {
                "ipv4": {
                    "ipAddress": [{"privateIpAddress": "10.0.0.22", "publicIpAddress": ""}],
                    "subnet": [{"address": "10.0.0.0", "prefix": "24"}],
                },
                "ipv6": {"ipAddress": []},
                "macAddress": "000D3A047598",
            }
        ]
    },
}
OVF = """<?xml version="1.0" encoding="utf-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure">
  <wa:ProvisioningSection><wa:Version>1.0</wa:Version>
    <LinuxProvisioningConfigurationSet xmlns="http://schemas.microsoft.com/windowsazure">
      <ConfigurationSetType>LinuxProvisioningConfiguration</ConfigurationSetType>
      <HostName>vm-2</HostName><UserName>admin</UserName>
      <DisableSshPasswordAuthentication>true</DisableSshPasswordAuthentication>
    </LinuxProvisioningConfigurationSet>
  </wa:ProvisioningSection>
  <wa:PlatformSettingsSection><wa:Version>1.0</wa:Version>
    <PlatformSettings xmlns="http://schemas.microsoft.com/windowsazure"/>
  </wa:PlatformSettingsSection>
</Environment>
"""
GOAL_STATE = """<GoalState><Version>2012-11-30</Version><Incarnation>1</Incarnation>
  <Container><ContainerId>c</ContainerId><RoleInstanceList><RoleInstance><InstanceId>i</InstanceId>
  <Configuration/></RoleInstance></RoleInstanceList></Container></GoalState>
"""
USER_DATA = None


def ec2(path):
    version, _, rest = path.lstrip("/").partition("/")
    if path == "/latest/api/token":
        return "token"
    # IMDS has tags since this version.
    known = {k: v for k, v in EC2.items() if version in ("2021-03-23", "latest") or not k.startswith("tags/")}
    if rest == "dynamic/instance-identity/document":
        return json.dumps({"instanceId": EC2["instance-id"], "region": EC2["placement/region"]})
    if rest == "user-data":
        return USER_DATA
    if rest.startswith("dynamic"):
        return {"dynamic/": "instance-identity/", "dynamic/instance-identity/": "document", "dynamic/instance-identity": "document"}.get(rest)
    if not rest.startswith("meta-data"):
        return None
    wanted = rest[len("meta-data") :].lstrip("/")
    if wanted in known:
        return known[wanted]
    below = [k[len(wanted) :] for k in known if k.startswith(wanted) and (wanted == "" or wanted.endswith("/"))]
    entries = {k.split("/")[0] + ("/" if "/" in k else "") for k in below}
    return "\n".join(sorted(entries)) or None


def openstack(path):
    versions = "2012-08-10\n2015-10-15\n2018-08-27\nlatest"
    files = {"/openstack": versions, "/openstack/": versions}
    if path.endswith("/meta_data.json"):
        return json.dumps(OPENSTACK)
    if path.endswith("/network_data.json"):
        return json.dumps({"links": [], "networks": [], "services": []})
    if path.endswith("/user_data"):
        return USER_DATA
    return files.get(path)


def gce(path):
    known = GCE
    if USER_DATA:
        attributes = dict(json.loads(GCE["instance/attributes/"]), **{"user-data": USER_DATA})
        known = dict(GCE, **{"instance/attributes/": json.dumps(attributes)})
    return known.get(path.replace("/computeMetadata/v1/", "", 1).split("?")[0])


def azure(path):
    path, _, query = path.partition("?")
    if path.startswith("/machine"):
        return GOAL_STATE if query == "comp=goalstate" else ""
    if path == "/metadata/instance":
        # Tags as a list exist since version 2019-06-04.
        old = query.partition("api-version=")[2] < "2019-06-04"
        # The portal's custom data is on the machine's CD; this is another way to pass user-data.
        user_data = {"userData": base64.b64encode(USER_DATA.encode()).decode()} if USER_DATA else {}
        compute = {k: v for k, v in AZURE["compute"].items() if not (old and k == "tagsList")}
        return json.dumps(dict(AZURE, compute=dict(compute, **user_data)))
    if path == "/metadata/instance/network":
        return json.dumps(AZURE["network"])
    return None


SERVERS = {"ec2": ec2, "openstack": openstack, "gce": gce, "azure": azure}


def handler(platform, before=lambda: None):
    """The request handler of one platform; `before` may delay a response, or refuse it by returning a status."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = SERVERS[platform](self.path)
            status = before() or (404 if body is None else 200)
            body = (body or "").encode() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = answer

        def log_message(self, *args):
            pass

    return Handler
