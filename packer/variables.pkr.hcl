# One set for all builders; a target's own values are in TARGET.pkrvars.hcl.

variable "target" {
  type        = string
  description = "Hanode's name of the distribution in the base image."
  default     = "debian-13"
  validation {
    condition     = contains(["debian-13", "ubuntu-20.04", "centos-8"], var.target)
    error_message = "The target must be debian-13, ubuntu-20.04 or centos-8."
  }
}

variable "cluster" {
  type        = string
  description = "The cluster directory. Uploaded of it: spec, secrets and bundle. The CAs' keys stay here."
}

variable "programs" {
  type        = string
  description = "The directory with hanode and hanode-firstboot, as `make dist` fills dist/."
}

variable "output" {
  type        = string
  description = "Where image and checksum of the QEMU builder go, IMAGE_NAME-manifest.json beside it. It must not exist."
  default     = "node-image"
}

variable "image_name" {
  type    = string
  default = "hanode-node"
}

variable "ssh_username" {
  type    = string
  default = "root"
}

variable "ssh_private_key_file" {
  type        = string
  description = "Lets Packer into the base image; unset: Packer's own, where the platform passes it on."
  default     = ""
}

# --- QEMU ---

variable "base" {
  type        = string
  description = "A disk image to begin with: of `hanode build --base`, or the distribution's cloud image."
  default     = ""
}

variable "base_checksum" {
  type    = string
  default = "none"
}

variable "seed" {
  type        = string
  description = "A directory with meta-data and user-data that let Packer in."
  default     = ""
}

variable "disk_size" {
  type    = string
  default = "4096M"
}

variable "accelerator" {
  type    = string
  default = "kvm"
}

variable "memory" {
  type    = number
  default = 2048
}

# --- vSphere ---

variable "vcenter_server" {
  type    = string
  default = ""
}

variable "vcenter_username" {
  type    = string
  default = ""
}

variable "vcenter_password" {
  type      = string
  default   = ""
  sensitive = true
}

variable "vcenter_cluster" {
  type    = string
  default = ""
}

variable "vcenter_datastore" {
  type    = string
  default = ""
}

variable "vcenter_folder" {
  type    = string
  default = ""
}

variable "vcenter_template" {
  type        = string
  description = "The template or machine to clone."
  default     = ""
}

# --- Amazon ---

variable "region" {
  type    = string
  default = ""
}

variable "source_ami" {
  type    = string
  default = ""
}

variable "instance_type" {
  type    = string
  default = "t3.medium"
}
