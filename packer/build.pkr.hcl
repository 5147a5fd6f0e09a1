# Shared by all builders; choose one with `packer build -only=qemu.node …`.

locals {
  # Readable only by the uploading user, and removed before the machine is shut down.
  stage = "/var/tmp/hanode-bake"
}

build {
  sources = ["source.qemu.node", "source.vsphere-clone.node", "source.amazon-ebs.node"]

  provisioner "shell" {
    inline = ["mkdir -m 700 ${local.stage} ${local.stage}/cluster"]
  }

  # Single files: the CA keys in the cluster directory's pki/ must not get into a machine or an image.
  provisioner "file" {
    source      = "${var.cluster}/cluster.toml"
    destination = "${local.stage}/cluster/cluster.toml"
  }
  provisioner "file" {
    source      = "${var.cluster}/secrets.toml"
    destination = "${local.stage}/cluster/secrets.toml"
  }
  provisioner "file" {
    source      = "${var.cluster}/bundle.tar.gz"
    destination = "${local.stage}/cluster/bundle.tar.gz"
  }
  provisioner "file" {
    source      = "${var.programs}/hanode"
    destination = "${local.stage}/hanode"
  }
  provisioner "file" {
    source      = "${var.programs}/hanode-firstboot"
    destination = "${local.stage}/hanode-firstboot"
  }

  # No secret is in a command or its output. The last step, because it also removes Packer's SSH access.
  provisioner "shell" {
    execute_command = "sudo sh -eu '{{ .Path }}'"
    inline = [
      "trap 'rm -rf ${local.stage}' EXIT",
      "chmod 700 ${local.stage}/hanode ${local.stage}/hanode-firstboot",
      "${local.stage}/hanode bake ${local.stage}/cluster --target ${var.target} --root /",
    ]
  }

  post-processor "checksum" {
    only           = ["qemu.node"]
    checksum_types = ["sha256"]
    output         = "${var.output}/${var.image_name}.qcow2.{{ .ChecksumType }}"
  }
  post-processor "manifest" {
    output     = "${dirname(var.output)}/${var.image_name}-manifest.json"
    strip_path = true
    custom_data = {
      target = var.target
    }
  }
}
