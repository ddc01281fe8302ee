#!/bin/sh
# An extension module in shell: a file that holds one word.
#
# Called with one word (describe, analyze, apply). Plain parameters are in the environment as PARAM_<name>; the whole
# request is JSON on stdin, for programs that can read it. The answer is one JSON object on stdout.
set -eu

# A text as a JSON string; of characters that JSON does not take as they are, only these two are expected here.
quoted() {
    printf '"%s"' "$(printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"
}

describe() {
    cat <<'JSON'
{
  "protocol": 1,
  "summary": "A file that holds one word.",
  "identity": "path",
  "dry_run": "Tells everything.",
  "outputs": {"word": "the word that the file holds"},
  "params": {
    "type": "object",
    "additionalProperties": false,
    "required": ["path", "word"],
    "properties": {
      "path": {"type": "string", "description": "Where the file is: an absolute path."},
      "word": {"type": "string", "description": "What it holds: letters, digits, - and _."}
    }
  },
  "example": "colour:\n  flag: {path: /etc/colour, word: green}\n"
}
JSON
}

analyze() {
    if [ -e "$PARAM_path" ]; then
        old=$(cat "$PARAM_path")
        before=$(quoted "$old")
    else
        old=
        before=null
    fi
    if [ "$old" = "$PARAM_word" ]; then
        changes='[]'
    else
        changes="[{\"field\": \"word\", \"before\": $before, \"after\": $(quoted "$PARAM_word")}]"
    fi
    printf '{"changes": %s, "outputs": {"word": %s}}\n' "$changes" "$(quoted "$PARAM_word")"
}

apply() {
    # Written beside and moved over, so that nobody ever reads half of it.
    printf '%s\n' "$PARAM_word" > "$PARAM_path.new"
    mv -f "$PARAM_path.new" "$PARAM_path"
    printf '{"outputs": {"word": %s}}\n' "$(quoted "$PARAM_word")"
}

case "$1" in
    describe) describe ;;
    analyze | apply)
        case "$PARAM_word" in
            "" | *[!A-Za-z0-9_-]*) echo "word: it is letters, digits, - and _" >&2; exit 1 ;;
        esac
        "$1"
        ;;
    *) echo "unknown call: $1" >&2; exit 2 ;;
esac
