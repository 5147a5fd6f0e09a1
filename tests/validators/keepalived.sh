# Keepalived on its rendered file takes the address over while HAProxy answers, and complains of nothing.
runtime
ip address del 192.168.18.20/24 dev host0
haproxy -W -f /etc/haproxy/haproxy.cfg > /tmp/haproxy.log 2>&1 &
keepalived --dont-fork --log-console --log-detail > /tmp/keepalived.log 2>&1 &
within 20 says 'inet 192.168.18.20/32' ip address show dev host0
fails grep -Ei 'security|warning|unknown|truncat|error' /tmp/keepalived.log
echo CHECKED
