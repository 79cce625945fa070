#!/bin/sh
# Says, after a test run, what was not tested because a tool could not be had. $1 is the folder of
# setup.sh: its files `failed` and `missing` name the tools, its file `skipped` the tests (each test that
# skips itself appends a line "test: tool"). With CI=true it fails the run for a tool that a registry
# has, and for a test that was skipped though nothing is missing; what the machine itself lacks is only said.
set -eu

tools=${1:?usage: summary.sh FOLDER}
[ -s "$tools/failed" ] || [ -s "$tools/missing" ] || [ -s "$tools/skipped" ] || exit 0

status=0
if [ "${CI:-}" = true ]; then
    [ ! -s "$tools/failed" ] || status=1
    [ ! -s "$tools/skipped" ] || [ -s "$tools/missing" ] || status=1
fi

# list FILE TITLE
list() {
    [ -s "$tools/$1" ] || return 0
    echo "$2:"
    sort -u "$tools/$1" | sed 's/^/  /'
}

rule='======================================================================'
{
    echo "$rule"
    echo 'NOT EVERYTHING WAS TESTED'
    list failed 'Tools that could not be fetched'
    list missing 'Tools that this machine lacks'
    list skipped 'Tests that were skipped'
    [ "$status" = 0 ] || echo 'CI=true: this is a failure.'
    echo "$rule"
} >&2
exit "$status"
