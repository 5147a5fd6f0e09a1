target    = "debian-13"
disk_size = "4096M" # of `hanode build --base`; a larger one grows at first boot
