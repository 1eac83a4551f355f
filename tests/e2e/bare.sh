#!/bin/sh
# The proof that a checkout is all one needs: ./run bare ['VERB ARGUMENTS'...], by default demo and test.
#
# Two chroots of a Debian 12 with nothing but its essential packages. In one, root runs the verbs. In the other an
# ordinary user tries, is told the one line to have run as root (exit 3), root runs exactly that line, and the user runs
# the verbs. From this host the chroots get what leads to its package sources: apt and pip configuration, certificates.
set -eu
[ $# -gt 0 ] || set -- demo test
checkout=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d /var/tmp/raftcluster-bare.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
user=1000

say() { echo "bare: $*"; }
fail() { say "$*"; exit 1; }

copy() { # PATH: to the same place in the base, when this host has it
    [ -e "$1" ] || return 0
    mkdir -p "$work/base$(dirname "$1")"
    cp -RLp "$1" "$work/base$(dirname "$1")/"
}

mirror() { # the first one of this host's apt sources
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -Eo '^(URIs:|deb ).*' | grep -Eo '[a-z]+://[^] ]+' | head -n 1
}

inside() { # CHROOT UID COMMAND: in its own mount and process namespace, with an empty environment
    chroot=$work/$1 uid=$2 command=$3
    [ "$uid" = 0 ] && home=/root || home=/home/guest
    set -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "HOME=$home"
    while IFS= read -r setting; do
        set -- "$@" "$setting"
    done <"$work/environment"
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child sh -c '
        set -e
        root=$1 uid=$2
        shift 2
        mount --bind "$root" "$root" # a root that is a mount, as `ip netns` wants it
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        exec chroot --userspec="$uid:$uid" --groups= "$root" "$@"
    ' sh "$chroot" "$uid" "$@" sh -c "cd $home/project && $command" </dev/null
}

say "a Debian 12 with nothing"
debootstrap --variant=minbase bookworm "$work/base" "$(mirror)" >"$work/log" 2>&1 || fail "$(tail -n 1 "$work/log")"
[ ! -d /etc/apt ] || rm -rf "$work/base/etc/apt"
for path in /etc/apt /etc/pip.conf /etc/xdg/pip /root/.config/pip /etc/ssl/certs/ca-certificates.crt \
    /usr/local/share/ca-certificates /etc/resolv.conf /etc/hosts; do
    copy "$path"
done
env | grep -Ei '^(https?_proxy|no_proxy|all_proxy|pip_[a-z_]+|ssl_cert_file|requests_ca_bundle)=' >"$work/environment" || :
mkdir "$work/base/root/project"
if git -C "$checkout" rev-parse HEAD >/dev/null 2>&1; then
    git -C "$checkout" archive HEAD | tar -x -C "$work/base/root/project"
else
    tar -c -C "$checkout" --exclude=./.venv --exclude=__pycache__ . | tar -x -C "$work/base/root/project"
fi
chroot "$work/base" useradd --uid $user --create-home guest
cp -R "$work/base/root/project" "$work/base/home/guest/project"
[ ! -d "$work/base/root/.config" ] || cp -R "$work/base/root/.config" "$work/base/home/guest/"
chroot "$work/base" chown -R $user:$user /home/guest
cp -a "$work/base" "$work/root"
mv "$work/base" "$work/user"

step() { # CHROOT UID COMMAND
    began=$(date +%s)
    code=0
    inside "$@" >"$work/log" 2>&1 || code=$?
    [ "$code" = 0 ] || { cat "$work/log"; fail "$3 as uid $2: exit $code"; }
    say "$3 as uid $2: $(($(date +%s) - began)) s; $(grep -v '^[[:space:]]*$' "$work/log" | tail -n 1)"
}

code=0
line=$(inside user $user './run test' 2>"$work/log") || code=$?
[ "$code" = 3 ] || { cat "$work/log"; fail "./run test without python3-venv: exit $code instead of 3"; }
case $line in
    *"
"*) fail "more than one line: $line" ;;
    'apt-get update && '*) say "a user is told: $line" ;;
    *) fail "not the line to run: $line" ;;
esac
step user 0 "cd / && $line"
for verb; do
    case $verb in
        e2e* | chaos*) ;; # root only
        *) step user $user "./run $verb" ;;
    esac
    step root 0 "./run $verb"
done
say "everything runs on a bare machine"
