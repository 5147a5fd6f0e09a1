# Variables of all builders; the values for each target are in TARGET.pkrvars.hcl.

variable "target" {
  type        = string
  description = "The hanode target of the distribution in the base image."
  default     = "debian-13"
  validation {
    condition     = contains(["debian-13", "ubuntu-20.04", "centos-8"], var.target)
    error_message = "The target must be debian-13, ubuntu-20.04 or centos-8."
  }
}

variable "cluster" {
  type        = string
  description = "The cluster directory. Spec, secrets and bundle are uploaded; the CA keys are not."
}

variable "programs" {
  type        = string
  description = "The directory with hanode and hanode-firstboot, such as the dist/ of `make dist`."
}

variable "output" {
  type        = string
  description = "The output directory of the QEMU builder, which must not exist. IMAGE_NAME-manifest.json is written beside it."
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
  description = "The private SSH key for the base image; unset: a temporary key, where the platform installs it."
  default     = ""
}

# --- QEMU ---

variable "base" {
  type        = string
  description = "The disk image to start from: of `hanode build --base`, or the distribution's cloud image."
  default     = ""
}

variable "base_checksum" {
  type    = string
  default = "none"
}

variable "seed" {
  type        = string
  description = "A directory with meta-data and user-data that allow Packer to log in."
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
