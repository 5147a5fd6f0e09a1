# The image contains keys, so it is encrypted and private.
source "amazon-ebs" "node" {
  region        = var.region
  source_ami    = var.source_ami
  instance_type = var.instance_type
  ami_name      = "${var.image_name}-${formatdate("YYYYMMDDhhmm", timestamp())}"
  encrypt_boot  = true
  tags = {
    Name = var.image_name
  }

  ssh_username = var.ssh_username
  ssh_timeout  = "20m"
}
