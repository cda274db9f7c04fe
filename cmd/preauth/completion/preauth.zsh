#compdef preauth
# Completion of preauth for zsh. To use it now: source <(preauth completion zsh)

_preauth() {
	local line
	local -a candidates
	local program=${~words[1]}
	[[ $words[CURRENT] == --*=* ]] && compset -P '*='
	for line in "${(@f)$("$program" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		case $line in
		'') ;;
		:files) _files; return ;;
		*$'\t'*) candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		*) candidates+=("${line//:/\\:}") ;;
		esac
	done
	_describe preauth candidates
}

if [[ $funcstack[1] == _preauth ]]; then
	_preauth "$@"
else
	compdef _preauth preauth
fi
