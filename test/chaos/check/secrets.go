package check

// silent: no token and no code is where it must not be.
func silent(x *index, v *verdict) {
	v.that(len(x.Leaks) == 0, nil, "secrets in %q", x.Leaks)
}

// processesBehave: no replica exits by itself, and each stops in time and with status 0 after
// SIGTERM.
func processesBehave(x *index, v *verdict) {
	v.that(len(x.Broken) == 0, nil, "%q", x.Broken)
}
