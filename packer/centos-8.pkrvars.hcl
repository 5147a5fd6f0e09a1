target       = "centos-8"
ssh_username = "centos" # of CentOS' cloud image
disk_size    = "10240M"
