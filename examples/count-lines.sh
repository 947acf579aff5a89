#!/usr/bin/env bash
# Counts the lines of the repository it stands in by language, and says which package that is.
# Arguments: the paths to count, the whole repository by default. Prints a table; as a run of orch it also writes
# its result, as JSON, to $ORCH_RESULT_FILE.
set -euo pipefail

[[ ${1-} == -- ]] && shift

language_of() {
    case ${1##*/} in
    Dockerfile*) echo Docker ;;
    *.rs) echo Rust ;;
    *.sql) echo SQL ;;
    *.md) echo Markdown ;;
    *.toml) echo TOML ;;
    *.sh) echo Shell ;;
    *.yml | *.yaml) echo YAML ;;
    *) echo other ;;
    esac
}

lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT

# Names end in NUL from here to the last line: a path may hold a space, a quote or a newline.
git ls-files -z -- "$@" > "$lists/all"
while IFS= read -r -d '' path; do
    # Links, submodules and files that are gone have no lines of their own.
    [[ -f $path && ! -L $path ]] || continue
    printf '%s\0' "$path" >> "$lists/language-$(language_of "$path")"
done < "$lists/all"

package=$(cargo metadata --format-version 1 --no-deps --offline |
    sed -nE 's/.*"packages":\[\{"name":"([^"]+)","version":"([^"]+)".*/\1 \2/p')

rows=()
json=()
for list in "$lists"/language-*; do
    [[ -e $list ]] || continue
    language=${list##*/language-}
    files=$(tr -cd '\0' < "$list" | wc -c)
    lines=$(xargs -0 cat -- < "$list" | wc -l)
    rows+=("$(printf '%-10s %6d %8d' "$language" "$files" "$lines")")
    json+=("\"$language\":{\"files\":$((files)),\"lines\":$((lines))}")
done

echo "$package"
printf '%-10s %6s %8s\n' language files lines
((${#rows[@]} == 0)) || printf '%s\n' "${rows[@]}" | sort -k3,3nr

if [[ -n ${ORCH_RESULT_FILE-} ]]; then
    languages=$(IFS=,; echo "${json[*]-}")
    printf '{"verdict":"counted","data":{"package":"%s","languages":{%s}}}\n' "$package" "$languages" > "$ORCH_RESULT_FILE"
fi
