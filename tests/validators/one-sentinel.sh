# Sentinel on a file merged from a fresh one and one that it had rewritten: it is who it was, and knows whom it knew.
runtime
chown redis /srv/node1/run
as redis redis-sentinel /srv/node1/live/sentinel.conf > /tmp/sentinel.log 2>&1 &
sentinel() { REDISCLI_AUTH=sentinel-0123456789-not-for-use redis-cli -h 192.168.18.21 -p 26378 $1 SENTINEL $2 $3; }
within 20 says "^$2" sentinel "$1" MYID ""
says 192.168.18.22 sentinel "$1" SENTINELS redis-cluster
says 192.168.18.23 sentinel "$1" SENTINELS redis-cluster
echo CHECKED
