target       = "centos-8"
ssh_username = "centos" # the user of CentOS' cloud image
disk_size    = "10240M"
