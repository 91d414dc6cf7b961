#!/usr/bin/env bash
# Makes the README's pictures from the project's own commands; needs chromium for the screenshot of the report.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
.venv/bin/isocline demo --out "$work/demo"
cp "$work/demo/spiral.gif" docs/pictures/spiral.gif
chromium --headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync \
  --hide-scrollbars --user-data-dir="$work/profile" --window-size=996,1140 \
  --screenshot=docs/pictures/report.png "file://$work/demo/lynx-hare/report.html"
rm -rf "$work"
