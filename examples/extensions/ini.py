#!/usr/bin/env python3
"""An extension module in Python: one option in a section of an INI file.

Called with one word (describe, analyze, apply); the request is JSON on stdin, the answer one JSON object on stdout.
Comments and everything else in the file stay as they are.
"""

import json
import os
import re
import sys

DESCRIPTION = {
    "protocol": 1,
    "summary": "One option in a section of an INI file.",
    "dry_run": "Tells everything.",
    "outputs": {"value": "the value that the option has"},
    "params": {
        "type": "object",
        "additionalProperties": False,
        "required": ["path", "section", "option"],
        "properties": {
            "path": {"type": "string", "description": "The file, an absolute path. It has to be there."},
            "section": {"type": "string", "description": "The section, without its brackets."},
            "option": {"type": "string", "description": "The name of the option."},
            "value": {"type": ["string", "integer", "boolean"], "description": "Its value."},
            "absent": {"type": "boolean", "description": "There is to be no such option."},
        },
    },
    "example": "pool-size:\n  ini: {path: /etc/app.ini, section: pool, option: size, value: 8}\n",
}


def text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def find(lines, section, option):
    """Where the option is, or nothing; and where it would go, or nothing if there is no such section."""
    inside, place = False, None
    for at, line in enumerate(lines):
        header = re.match(r"\s*\[([^]]*)\]", line)
        if header:
            inside = header.group(1).strip() == section
            place = at + 1 if inside else place
            continue
        if inside and re.match(r"\s*" + re.escape(option) + r"\s*[=:]", line):
            return at, place
        if inside and line.strip():
            place = at + 1
    return None, place


def edit(lines, params):
    """The value that was there, and the lines as they are to be."""
    section, option = params["section"], params["option"]
    at, place = find(lines, section, option)
    before = None if at is None else re.split(r"[=:]", lines[at], maxsplit=1)[1].strip()
    if params.get("absent"):
        return before, lines if at is None else lines[:at] + lines[at + 1 :]
    new = f"{option} = {text(params['value'])}"
    if at is not None:
        return before, lines if before == text(params["value"]) else lines[:at] + [new] + lines[at + 1 :]
    if place is None:
        return before, lines + [f"[{section}]", new]
    return before, lines[:place] + [new] + lines[place:]


def main():
    call = sys.argv[1]
    if call == "describe":
        return DESCRIPTION
    params = json.load(sys.stdin)["params"]
    if not params.get("absent") and "value" not in params:
        sys.exit("value: it is missing")
    with open(params["path"], encoding="utf-8") as file:
        old = file.read().split("\n")
    before, new = edit(old[:-1] if old[-1] == "" else old, params)
    after = None if params.get("absent") else text(params["value"])
    outputs = {} if after is None else {"value": after}
    if call == "apply":
        beside = params["path"] + ".new"
        mode = os.stat(params["path"]).st_mode & 0o7777
        with open(beside, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write("".join(line + "\n" for line in new))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, params["path"])
        return {"outputs": outputs}
    if before == after:
        return {"outputs": outputs}
    return {"changes": [{"field": "value", "before": before, "after": after}], "outputs": outputs}


print(json.dumps(main()))
