#!/bin/sh
# Runs the fuzz targets that are named, or all, one after the other, for TIME seconds each, and
# prints how often each was executed. Found inputs stay below target/fuzz; the first one ends it.
set -eu
cd "$(dirname "$0")/../.."
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2; exit 1; }
[ $# -gt 0 ] || set -- $(ls tests/fuzz/seeds)
for target; do
    seeds=tests/fuzz/seeds/$target
    [ -d "$seeds" ] || { echo "no fuzz target $target; there are: $(ls tests/fuzz/seeds | xargs)" >&2; exit 1; }
    corpus=target/fuzz/corpus/$target found=target/fuzz/found/$target
    dictionary=tests/fuzz/dictionaries/$target.dict
    mkdir -p "$corpus" "$found"
    cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer "${SANITIZER:-none}" \
        "$target" "$corpus" "$seeds" -- -max_total_time="${TIME:-600}" -timeout=20 -max_len=4096 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$found/" \
        $([ -f "$dictionary" ] && echo "-dict=$dictionary")
done
