# as USER COMMAND...: the way systemd would start a service
as() {
    who=$1
    shift
    setpriv --reuid="$who" --regid="$who" --init-groups -- "$@"
}
# within SECONDS COMMAND...: repeats until it succeeds
within() {
    left=$1
    shift
    until "$@" > /tmp/within 2>&1; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "FAILED: $*"
            cat /tmp/within
            tail -n 20 /tmp/*.log /var/log/patroni/*.log /var/log/redis/*.log /var/log/postgresql/*.log /srv/*/log/*.log 2>/dev/null || true
            exit 1
        fi
        sleep 1
    done
}
# says TEXT COMMAND...: its output contains TEXT
says() {
    text=$1
    shift
    output=$("$@" 2>&1) || true
    echo "$output" | grep -q -e "$text" || { echo "no $text in the output of $*: $output"; return 1; }
}
# fails COMMAND...: a bare `! COMMAND` would not end the script
fails() {
    if "$@"; then
        echo "FAILED: should not succeed: $*"
        exit 1
    fi
}
runtime() {
    install -d -o redis -g redis /run/redis /run/sentinel
    install -d -o postgres -g postgres /run/postgresql
    install -d /run/haproxy
}
