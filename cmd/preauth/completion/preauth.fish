# Completion of preauth for fish. To use it now: preauth completion fish | source

function __preauth_complete
	set -l words (commandline -opc)
	set -l program $words[1]
	set -e words[1]
	set -l current (commandline -ct)
	set -l prefix ''
	if string match -q -- '--*=*' $current
		set prefix (string replace -r '=.*' '=' -- $current)
	end
	for line in ($program complete -- $words "$current" 2>/dev/null)
		if test "$line" = :files
			for file in (__fish_complete_path (string replace -- "$prefix" '' "$current"))
				printf '%s%s\n' "$prefix" $file
			end
			return
		end
		printf '%s%s\n' "$prefix" $line
	end
end

complete -c preauth -f -a '(__preauth_complete)'
