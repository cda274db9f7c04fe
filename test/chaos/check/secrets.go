package check

// silent: no token and no code is where none may be.
func silent(x *index, v *verdict) {
	v.that(len(x.Leaks) == 0, nil, "secrets in %q", x.Leaks)
}

// processesBehave: no replica ends by itself, and each ends in time and in good order when it is told to.
func processesBehave(x *index, v *verdict) {
	v.that(len(x.Broken) == 0, nil, "%q", x.Broken)
}
