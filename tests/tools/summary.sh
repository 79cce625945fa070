#!/bin/sh
# Says, after a test run, what was not tested because a tool could not be had. $1 is the folder of
# setup.sh: its file `missing` names the tools, its file `skipped` the tests (each test that skips
# itself appends a line "test: tool"). Nothing may be skipped when CI=true.
set -eu

tools=${1:?usage: summary.sh FOLDER}
[ -s "$tools/missing" ] || [ -s "$tools/skipped" ] || exit 0

rule='======================================================================'
{
    echo "$rule"
    echo 'NOT EVERYTHING WAS TESTED'
    if [ -s "$tools/missing" ]; then
        echo 'Tools that could not be had:'
        sed 's/^/  /' "$tools/missing"
    fi
    if [ -s "$tools/skipped" ]; then
        echo "Tests that were skipped ($(sort -u "$tools/skipped" | wc -l | tr -d ' ')):"
        sort -u "$tools/skipped" | sed 's/^/  /'
    fi
    [ "${CI:-}" != true ] || echo 'CI=true: this is a failure.'
    echo "$rule"
} >&2
[ "${CI:-}" != true ]
