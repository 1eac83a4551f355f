"""What is run on a host, as root and by `sh -c`: each takes its arguments in order, may be repeated, and can be cut off
anywhere -- what another run needs is complete once it has its name.

One at a time (`flock`): a push that was ended may still have a step under way there. Nothing secret is an argument.
"""

from __future__ import annotations

from typing import Final

from raftcluster.push.place import COMMAND, LOG, UNIT
from raftcluster.push.unit import OPTIONS, USER

_HEAD: Final = """
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
export PATH LC_ALL
umask 022
prefix=$1 directory=$2 id=$3
release=$prefix/releases/$id
fail() { echo "$*" >&2; exit 1; }
"""
_LOCKED: Final = f"""
while :; do
    if [ ! -f "$prefix/before" ]; then
        found=$({{ id -u {USER} >/dev/null 2>&1 || echo user
            if [ -e "$directory" ]; then stat -c 'was %u:%g %a' "$directory"; else echo directory; fi
            [ -e {UNIT} ] || echo unit
            [ -e {OPTIONS} ] || echo options
            [ -e {COMMAND} ] || [ -L {COMMAND} ] || echo command
            [ -e {LOG} ] || echo log
            for each in "$prefix" "$directory" {UNIT} {COMMAND}; do
                each=$(dirname "$each")
                while [ ! -e "$each" ]; do
                    echo "folder $each"
                    each=$(dirname "$each")
                done
            done | sort -ru; }})
        mkdir -p "$prefix"
        echo "$found" >"$prefix/before.new"
        mv "$prefix/before.new" "$prefix/before"
    fi
    exec 9>"$prefix/lock"
    flock -w 300 9 || fail "another push is at work here"
    # A removal that held the lock has taken it away with everything else.
    [ "$(stat -L -c %i /proc/self/fd/9)" != "$(stat -c %i "$prefix/lock" 2>/dev/null)" ] || [ ! -f "$prefix/before" ] || break
done
"""
_RUNNING: Final = r"""
running() { # prints the interpreter of the node that runs in the directory
    pid=$(cat "$directory/LOCK" 2>/dev/null) || return 1
    [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 1
    tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qx serve || return 1
    tr '\0' '\n' <"/proc/$pid/cmdline" | head -n 1
}
"""

LOOK: Final = (
    _HEAD
    + _RUNNING
    + f"""
tell() {{ echo "$1=$2"; }}
[ ! -f "$prefix/before" ] || tell begun yes
[ ! -f "$release/SHA256SUMS" ] || tell copied "$(sha256sum <"$release/SHA256SUMS" | cut -d' ' -f1)"
[ ! -f "$release/installed" ] || tell installed yes
[ ! -f "$prefix/arranged" ] || tell arranged "$(cat "$prefix/arranged")"
[ ! -L "$prefix/current" ] || tell current "$(basename "$(readlink "$prefix/current")")"
[ ! -f "$directory/node.json" ] || tell node yes
if [ ! -f "$directory/node.json" ] && [ -f "$directory/join.json" ] && [ -f "$prefix/lock" ]; then
    exec 9<"$prefix/lock"
    # Whoever has the lock may be joining right now.
    ! flock -n 9 || tell joining "$(sed 's/.*"node_id": "//; s/".*//' "$directory/join.json")"
fi
if found=$(running); then tell running "$found"; fi
[ ! -d /run/systemd/system ] || tell systemd yes
[ -f "$prefix/before" ] || [ ! -e {UNIT} ] || tell foreign {UNIT}
"""
)

COPY: Final = (
    _HEAD
    + _LOCKED
    + """
hash=$4
mkdir -p "$prefix/releases"
rm -rf "$release.new"
mkdir "$release.new"
base64 -d | tar -x -C "$release.new"
[ "$(sha256sum <"$release.new/SHA256SUMS" | cut -d' ' -f1)" = "$hash" ] || fail "what has arrived is not what was sent"
(cd "$release.new/wheels" && sha256sum --quiet -c ../SHA256SUMS >&2) || fail "what has arrived is not what was sent"
chown -R root:root "$release.new"
rm -rf "$release"
mv "$release.new" "$release"
"""
)
"""The artefact, a tar in base64 on standard input; 4: its hash."""

INSTALL: Final = (
    _HEAD
    + _LOCKED
    + """
python=$4
[ ! -f "$release/installed" ] || exit 0
rm -rf "$release/venv"
pip=$(ls /usr/share/python-wheels/pip-*.whl 2>/dev/null | tail -n 1)
[ -n "$pip" ] || pip=$("$python" -c 'import ensurepip, pathlib
print(*pathlib.Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))')
"$python" -m venv --without-pip "$release/venv"
"$release/venv/bin/python" "$pip/pip" install --quiet --no-input --disable-pip-version-check --no-cache-dir --no-index --no-deps \
    "$release"/wheels/*.whl
"$release/venv/bin/raftcluster" --version
date -u +%Y-%m-%dT%H:%M:%SZ >"$release/installed.new"
sync
mv "$release/installed.new" "$release/installed"
"""
)
"""4: the interpreter. No index is asked, nothing but the artefact is installed, by the pip that Python itself comes with."""

ARRANGE: Final = (
    _HEAD
    + _LOCKED
    + f"""
digest=$4 unit=$5 supervise=$6 uninstall=$7 options=$8
put() {{ # MODE FILE CONTENT
    printf '%s' "$3" | install -m "$1" /dev/stdin "$2.new"
    mv "$2.new" "$2"
}}
put 755 "$prefix/uninstall" "$uninstall"
put 644 "$prefix/directory" "$directory
"
put 755 "$prefix/supervise" "$supervise"
id -u {USER} >/dev/null 2>&1 || useradd --system --user-group --home-dir "$directory" --no-create-home \\
    --shell /usr/sbin/nologin {USER}
[ -e "$directory" ] || install -d -m 700 -o {USER} -g {USER} "$directory"
[ -e {OPTIONS} ] || put 644 {OPTIONS} "RAFTCLUSTER_OPTIONS='$options'
"
if grep -qx unit "$prefix/before"; then
    mkdir -p "$(dirname {UNIT})"
    put 644 {UNIT} "$unit"
fi
if grep -qx command "$prefix/before" && [ ! -e {COMMAND} ]; then
    mkdir -p "$(dirname {COMMAND})"
    ln -sfn "$prefix/bin/raftcluster" {COMMAND}
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload
echo "$digest" >"$prefix/arranged.new"
mv "$prefix/arranged.new" "$prefix/arranged"
"""
)
"""User, directory, unit, scripts; 4: their digest, 5 to 7: the files, 8: options of `serve` where none are set yet."""

SWITCH: Final = (
    _HEAD
    + _LOCKED
    + """
[ -f "$release/installed" ] || fail "$release is not installed"
ln -sfn "releases/$id" "$prefix/current.new"
mv -T "$prefix/current.new" "$prefix/current"
[ -L "$prefix/bin" ] || ln -s current/venv/bin "$prefix/bin"
"""
)

ENTER: Final = (
    _HEAD
    + _LOCKED
    + r"""
shift 3
[ ! -f "$directory/node.json" ] || exit 0
# The last cluster's end has asked for the program's removal, which nobody has done: it is wanted again.
[ ! -f "$directory/DESTROYED" ] || [ -e "$directory/VERSION" ] || rm -f "$directory/DESTROYED"
umask 077
said=$(mktemp "$prefix/said.XXXXXX")
trap 'rm -f "$said"' EXIT
token=$(cat)
code=0
printf '%s\n' "$token" | setsid -w "$prefix/bin/raftcluster" -C "$directory" "$@" >"$said" 2>&1 || code=$?
cat "$said" || :
exit $code
"""
)
"""The further arguments are those of `raftcluster`: init or join; what is on standard input is passed on. It goes on when nobody
listens any more."""

START: Final = (
    _HEAD
    + _LOCKED
    + _RUNNING
    + f"""
if found=$(running) && [ "$found" = "$release/venv/bin/python" ]; then exit 0; fi
if [ -d /run/systemd/system ]; then
    systemctl reset-failed raftcluster.service 2>/dev/null || :
    systemctl enable --quiet raftcluster.service
    systemctl restart raftcluster.service
    exit 0
fi
if running >/dev/null; then
    kill -TERM "$(cat "$directory/LOCK")"
    left=600
    while running >/dev/null; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "the node does not end"
        sleep 0.1
    done
fi
(umask 077; : >>{LOG})
exec 9>&-
setsid "$prefix/supervise" </dev/null >>{LOG} 2>&1 &
"""
)
"""The node runs, and of the release `id`: it is started, or stopped and started."""

STATUS: Final = (
    _HEAD
    + _RUNNING
    + r"""
left=$4
while :; do
    if found=$(running) && [ "$found" = "$release/venv/bin/python" ]; then
        if said=$("$prefix/bin/raftcluster" -C "$directory" status --json 2>/dev/null); then
            case $said in *'"leader": "'*) echo "$said"; exit 0 ;; esac
        fi
    fi
    left=$((left - 1))
    [ $left -gt 0 ] || break
    sleep 0.3
done
tail -n 3 /var/log/raftcluster.log 2>/dev/null >&2 || :
[ ! -d /run/systemd/system ] || journalctl -u raftcluster.service -n 3 --no-pager -o cat >&2 || :
fail "the node of this release does not run with a leader"
"""
)
"""The status of the node once it runs this release and has a leader; 4: how often to look."""

UNDO: Final = (
    _HEAD
    + """
exec sh -c "$4" sh
"""
)
"""What a push has left goes, once there is no node; 4: `Place.files()["uninstall"]`."""
