# As hanode-firewall.service does it, beside another's table that stays.
ALLOWED=no
LOAD() {
    nft add table inet others
    RELOAD
    says 'table inet others' nft list tables
}
RELOAD() {
    nft -c -f /etc/nftables.d/hanode.nft
    nft -f /etc/nftables.d/hanode.nft
}
SHOW() { nft list ruleset; }
