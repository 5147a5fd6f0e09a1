target       = "ubuntu-20.04"
ssh_username = "ubuntu" # the user of Ubuntu's cloud image
disk_size    = "8192M"
