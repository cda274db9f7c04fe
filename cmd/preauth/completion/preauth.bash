# Completion of preauth for bash. To use it now: source <(preauth completion bash)

_preauth() {
	local current=${COMP_WORDS[COMP_CWORD]} prefix='' value help
	if [[ $current == --*=* ]]; then # only where COMP_WORDBREAKS lacks "="
		prefix=${current%%=*}=
	fi
	COMPREPLY=()
	while IFS=$'\t' read -r value help; do
		if [[ $value == :files ]]; then
			current=${current#"$prefix"}
			compopt -o filenames 2>/dev/null
			while IFS= read -r value; do
				COMPREPLY+=("$prefix$value")
			done < <(compgen -f -- "${current#=}")
			return
		fi
		COMPREPLY+=("$prefix$value")
	done < <("${COMP_WORDS[0]/#\~/$HOME}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}

complete -F _preauth preauth
