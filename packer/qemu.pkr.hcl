source "qemu" "node" {
  disk_image       = true
  iso_url          = var.base
  iso_checksum     = var.base_checksum
  disk_size        = var.disk_size
  format           = "qcow2"
  disk_compression = true
  output_directory = var.output
  vm_name          = "${var.image_name}.qcow2"

  accelerator    = var.accelerator
  memory         = var.memory
  cpus           = 2
  headless       = true
  net_device     = "virtio-net"
  disk_interface = "virtio"
  cd_files       = ["${var.seed}/meta-data", "${var.seed}/user-data"]
  cd_label       = "cidata"

  ssh_username         = var.ssh_username
  ssh_private_key_file = var.ssh_private_key_file
  ssh_timeout          = "20m"
  shutdown_command     = "sudo systemctl poweroff"
}
