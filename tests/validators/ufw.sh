# As ufw.service does it. Port 9100 is opened as an operator would, and stays open.
ALLOWED=allowed
LOAD() {
    # Whole in itself: it may be judged before ufw has made its chains.
    iptables-restore --test /etc/ufw/before.rules
    ip6tables-restore --test /etc/ufw/before6.rules
    /lib/ufw/ufw-init start quiet
    ufw allow 9100/tcp
    says 'Status: active' ufw status
}
RELOAD() { /lib/ufw/ufw-init force-reload; }
SHOW() { iptables-save; ip6tables-save; }
