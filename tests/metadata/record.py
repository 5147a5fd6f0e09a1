"""What cloud-init makes of each platform's metadata, by its own code against an endpoint faked on loopback.

Run by record.sh inside a tree that has cloud-init, in a network and with a /sys of its own. The result is what
cloud-init leaves in /run/cloud-init. Patched is DHCP alone: this network has no server.
"""

import importlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

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
GUESTINFO = {"metadata": "instance-id: vm-2\nlocal-hostname: vm-2\nhanode_node: node2\n", "userdata": "#cloud-config\n{}\n"}
RPCTOOL = """#!/bin/sh
case $1 in
"info-get guestinfo.metadata") cat /run/guestinfo.metadata ;;
"info-get guestinfo.userdata") cat /run/guestinfo.userdata ;;
*) echo 'No value found' >&2; exit 1 ;;
esac
"""

# Platform: cloud-init's module, its class, what the firmware says of the machine.
PLATFORMS = {
    "nocloud": ("NoCloud", "DataSourceNoCloud", {}),
    "configdrive": ("ConfigDrive", "DataSourceConfigDrive", {}),
    "openstack": ("OpenStack", "DataSourceOpenStack", {"product_name": "OpenStack Nova"}),
    "ec2": ("Ec2", "DataSourceEc2", {"product_uuid": UUID, "product_serial": UUID, "sys_vendor": "Amazon EC2"}),
    "gce": ("GCE", "DataSourceGCE", {"product_name": "Google Compute Engine"}),
    "azure": ("Azure", "DataSourceAzure", {"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77", "product_uuid": UUID}),
    "vmware": ("VMware", "DataSourceVMware", {"product_name": "VMware Virtual Platform", "sys_vendor": "VMware, Inc."}),
}


def ec2(path):
    version, _, rest = path.lstrip("/").partition("/")
    if path == "/latest/api/token":
        return "token"
    # IMDS shows tags since this version only.
    known = {k: v for k, v in EC2.items() if version in ("2021-03-23", "latest") or not k.startswith("tags/")}
    if rest == "dynamic/instance-identity/document":
        return json.dumps({"instanceId": EC2["instance-id"], "region": EC2["placement/region"]})
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
    return files.get(path)


def gce(path):
    return GCE.get(path.replace("/computeMetadata/v1/", "", 1).split("?")[0])


def azure(path):
    path, _, query = path.partition("?")
    if path.startswith("/machine"):
        return GOAL_STATE if query == "comp=goalstate" else ""
    if path == "/metadata/instance":
        # Tags as a list came with version 2019-06-04.
        old = query.partition("api-version=")[2] < "2019-06-04"
        compute = {k: v for k, v in AZURE["compute"].items() if not (old and k == "tagsList")}
        return json.dumps(dict(AZURE, compute=compute))
    if path == "/metadata/instance/network":
        return json.dumps(AZURE["network"])
    return None


SERVERS = {"ec2": ec2, "openstack": openstack, "gce": gce, "azure": azure}


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        body = SERVERS[sys.argv[1]](self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write((body or "").encode())

    do_GET = do_PUT = do_POST = do_HEAD = answer

    def log_message(self, *args):
        pass


class NoDhcp:
    """Stands in for cloud-init's own DHCP: the address is there already."""

    def __init__(self, *args, **kwargs):
        self.lease = {"interface": "lo", "fixed-address": "127.0.0.1"}
        self.iface, self.state_msg = "lo", ""
        self._ephipv4 = type("Net", (), {"router": None, "static_routes": [(MANY_CLOUDS + "/32", ""), (AZURE_WIRE + "/32", "")]})()

    def obtain_lease(self):
        return self.lease

    def clean_network(self):
        pass

    def __enter__(self):
        return self.lease

    def __exit__(self, *args):
        pass


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def prepare(platform, firmware):
    for name, value in firmware.items():
        write("/sys/class/dmi/id/" + name, value + "\n")
    seed = "/var/lib/cloud/seed/"
    if platform == "nocloud":
        write(seed + "nocloud/meta-data", "instance-id: hspas-node2\nlocal-hostname: node2\nhanode_node: node2\n")
        write(seed + "nocloud/user-data", "#cloud-config\n{}\n")
    if platform == "configdrive":
        write(seed + "config_drive/openstack/latest/meta_data.json", json.dumps(OPENSTACK))
    if platform == "azure":
        write(seed + "azure/ovf-env.xml", OVF)
    if platform == "vmware":
        for name, text in GUESTINFO.items():
            write("/run/guestinfo." + name, text)
        write("/usr/bin/vmware-rpctool", RPCTOOL, 0o755)
    if platform == "gce":
        with open("/etc/hosts", "a") as hosts:
            hosts.write(MANY_CLOUDS + " metadata.google.internal metadata.google.internal.\n")
    if platform in SERVERS:
        server = HTTPServer(("", 80), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def main():
    platform = sys.argv[1]
    name, cls, firmware = PLATFORMS[platform]
    prepare(platform, firmware)
    os.makedirs("/run/cloud-init", exist_ok=True)
    from cloudinit import distros, helpers
    from cloudinit.stages import Init

    module = importlib.import_module("cloudinit.sources.DataSource" + name)
    for patched in ("EphemeralDHCPv4", "EphemeralDHCPv4WithReporting", "EphemeralIPNetwork"):
        if hasattr(module, patched):
            setattr(module, patched, NoDhcp)
    if platform == "azure":
        # Without it, earlier ones ask DHCP for the interface first.
        write("/sys/class/net/lo/operstate", "up")
        module.DataSourceAzure.fallback_interface = "lo"
    init = Init([])
    init.read_cfg()
    init.initialize()
    paths = init.paths
    source = getattr(module, cls)(init.cfg, distros.fetch("debian")("debian", init.cfg, paths), paths)
    assert source.get_data(), "cloud-init found no " + name
    with open("/run/cloud-init/instance-data-sensitive.json") as file:
        data = json.load(file)
    # What a fixture keeps: all of the platform's own data, and of the rest what does not tell of this machine.
    data["ds"].pop("_doc", None)
    v1 = {k: data["v1"].get(k) for k in ("cloud_name", "platform", "subplatform", "instance_id", "local_hostname")}
    json.dump({"ds": data["ds"], "v1": v1}, sys.stdout, indent=1, sort_keys=True)
    print()


main()
