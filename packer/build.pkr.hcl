# The same for every builder; choose one: packer build -only=qemu.node …

locals {
  # Readable for the uploading user alone, gone before the machine is switched off.
  stage = "/var/tmp/hanode-bake"
}

build {
  sources = ["source.qemu.node", "source.vsphere-clone.node", "source.amazon-ebs.node"]

  provisioner "shell" {
    inline = ["mkdir -m 700 ${local.stage} ${local.stage}/cluster"]
  }

  # By name: the cluster directory's pki/ holds the CAs' keys, which no image and no machine gets.
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

  # Nothing secret is in a command or in what it prints. The last step: it takes Packer's own way in away, too.
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
