"""Draw a command's output in a terminal as SVG: `python docs/pictures/terminal.py > docs/pictures/demo.svg`.

Without arguments it draws `llm4msr demo`; what is up to date is not run again.
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH = 132
# Rich's own form asks a font server for its font; a page of ours loads nothing from elsewhere.
FORM = """<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px; \
line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> int:
    """Run the command, draw what it wrote to its standard output."""
    words = sys.argv[1:] or ["llm4msr", "demo"]
    environment = {**os.environ, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": str(WIDTH), "LC_ALL": "C.UTF-8"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    found = subprocess.run(words, cwd=REPOSITORY, env=environment | {"PATH": path}, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        return found.returncode
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {shlex.join(words)}", style="bold"))
    console.print(Text.from_ansi(found.stdout.replace(f"{REPOSITORY}/", "")))
    print(console.export_svg(title=shlex.join(words), theme=MONOKAI, code_format=FORM, unique_id="llm4msr"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
