"""Records cloud-init's instance data for each platform, from its own code and a fake metadata service on loopback.

Run by record.sh in a tree with cloud-init, in a separate network namespace and with a fake /sys. The result is in
/run/cloud-init. Only DHCP is patched, because this network has no server.
"""

import importlib
import json
import os
import sys
import threading
from http.server import HTTPServer

from endpoints import AZURE_WIRE, MANY_CLOUDS, OPENSTACK, OVF, SERVERS, UUID, handler

GUESTINFO = {"metadata": "instance-id: vm-2\nlocal-hostname: vm-2\nhanode_node: node2\n", "userdata": "#cloud-config\n{}\n"}
RPCTOOL = """#!/bin/sh
case $1 in
"info-get guestinfo.metadata") cat /run/guestinfo.metadata ;;
"info-get guestinfo.userdata") cat /run/guestinfo.userdata ;;
*) echo 'No value found' >&2; exit 1 ;;
esac
"""

# Platform: cloud-init's module and class, and the DMI values of the machine.
PLATFORMS = {
    "nocloud": ("NoCloud", "DataSourceNoCloud", {}),
    "configdrive": ("ConfigDrive", "DataSourceConfigDrive", {}),
    "openstack": ("OpenStack", "DataSourceOpenStack", {"product_name": "OpenStack Nova"}),
    "ec2": ("Ec2", "DataSourceEc2", {"product_uuid": UUID, "product_serial": UUID, "sys_vendor": "Amazon EC2"}),
    "gce": ("GCE", "DataSourceGCE", {"product_name": "Google Compute Engine"}),
    "azure": ("Azure", "DataSourceAzure", {"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77", "product_uuid": UUID}),
    "vmware": ("VMware", "DataSourceVMware", {"product_name": "VMware Virtual Platform", "sys_vendor": "VMware, Inc."}),
}


class NoDhcp:
    """Replaces cloud-init's DHCP client: the address is configured already."""

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
        server = HTTPServer(("", 80), handler(platform))
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
        # Otherwise earlier versions use DHCP first to find the interface.
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
    # The fixture keeps all data of the platform, and the other data that does not depend on this machine.
    data["ds"].pop("_doc", None)
    v1 = {k: data["v1"].get(k) for k in ("cloud_name", "platform", "subplatform", "instance_id", "local_hostname")}
    json.dump({"ds": data["ds"], "v1": v1}, sys.stdout, indent=1, sort_keys=True)
    print()


main()
