#!/bin/sh
# push.sh USER TEXT: sends the text to all connections of the user, on whichever nodes. Says nothing
# unless it fails, so that cron mails nothing else. USER stands in a URL: percent-encode what needs it.
set -eu

# The key comes by a pipe, because everybody on the machine sees what stands in a command line.
printf 'Authorization: Bearer %s\n' "$(cat "$KEY_FILE")" |
    curl --silent --show-error --fail --max-time 10 --output /dev/null \
        --header @- --header "Content-Type: text/plain" --data-raw "$2" \
        "$MANAGEMENT/api/hubs/default/users/$1/:send"
