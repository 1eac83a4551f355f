#!/bin/sh
# The proof that the package installs without a network and leaves nothing: ./run deb --check [PACKAGE]
#
# A Debian 12 with its essential packages and those that ours depends on; in a network namespace of its own the package is installed,
# makes a node that answers, is installed once more, removed, and purged. Then every file is what it was before.
set -eu
package=$1
work=$(mktemp -d /var/tmp/raftcluster-deb.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

say() { echo "deb: $*"; }
fail() { say "$*"; exit 1; }
mirror() { # the first one of this host's apt sources
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -Eo '^(URIs:|deb ).*' | grep -Eo '[a-z]+://[^] ]+' | head -n 1
}

began=$(date +%s)
debootstrap --variant=minbase --include=python3,python3-venv,nftables,iproute2 bookworm "$work/root" "$(mirror)" >"$work/log" 2>&1 ||
    fail "$(tail -n 1 "$work/log")"
say "a Debian 12: $(($(date +%s) - began)) s"
cp "$package" "$work/root/root/raftcluster.deb"
cat >"$work/root/root/check" <<'INSIDE'
set -eu
ip link set lo up
listing() { # every file: kind, mode, owner, content; what dpkg writes for itself, and /etc/passwd- ..., are not ours
    find / -xdev \( -path /proc -o -path /dev -o -path /sys -o -path /tmp -o -path /root -o -path /var/lib/dpkg \
        -o -path /var/log -o -path /var/cache -o -path '/etc/*-' \) -prune -o -printf '%y %m %u:%g %p %l\n' -o -true | sort
    find /etc /usr /opt /var/lib -xdev -type f ! -path '/var/lib/dpkg/*' ! -name '*-' ! -path '*/__pycache__/*' -print0 |
        sort -z | xargs -0 sha256sum
}
listing >/root/before
dpkg -i /root/raftcluster.deb
raftcluster version
[ "$(stat -c '%a %U' /var/lib/raftcluster)" = "700 raftcluster" ]
[ -f /lib/systemd/system/raftcluster.service ] && [ -f /usr/share/bash-completion/completions/raftcluster ]
[ "$(sha256sum </usr/lib/raftcluster/current/SHA256SUMS | cut -d' ' -f1)" = "$(raftcluster version | sed -n 's/^artefact *//p')" ]
raftcluster init --name check --node mx1 --listen 127.0.0.1:9777
chown -R raftcluster: /var/lib/raftcluster
setpriv --reuid=raftcluster --regid=raftcluster --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
    raftcluster serve >/root/serve.log 2>&1 &
left=100
until raftcluster status --json 2>/dev/null | grep -q '"leader": "'; do
    left=$((left - 1))
    [ $left -gt 0 ] || { cat /root/serve.log; exit 1; }
    sleep 0.2
done
raftcluster verify
kill -TERM $!
wait $! || [ $? = 143 ]
dpkg -i /root/raftcluster.deb # again: nothing is lost
[ -f /var/lib/raftcluster/node.json ]
dpkg -r raftcluster
[ -f /var/lib/raftcluster/node.json ] # a removal keeps what the node knows
[ ! -e /usr/lib/raftcluster ] || { find /usr/lib/raftcluster; exit 1; }
dpkg -P raftcluster
listing >/root/after
diff /root/before /root/after
INSIDE
began=$(date +%s)
unshare --mount --pid --net --fork --kill-child sh -c '
    set -e
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive chroot "$1" sh /root/check
' sh "$work/root" >"$work/log" 2>&1 </dev/null || { cat "$work/log"; fail "what is above"; }
say "installed without a network, a node answered, removed and purged, nothing is left: $(($(date +%s) - began)) s"
