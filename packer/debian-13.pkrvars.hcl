target    = "debian-13"
disk_size = "4096M" # the size that `hanode build --base` writes; a larger disk is used from the first boot
