package model

import "slices"

// Scripts are what the model is explored with. Together they take every action.
var Scripts = []Script{
	{
		Name: "tokens of two components", Events: []Event{{0, 1, false}, {1, 2, false}, {0, 3, false}},
		Crashes: 1, Lost: 1,
	},
	{
		Name: "repeated and bad events", Events: []Event{{0, 1, false}, {0, 1, false}, {0, 2, true}},
		Crashes: 1, Lost: 1, Late: 1,
	},
	{
		Name: "renewals", Events: []Event{{0, 1, false}, {0, 2, false}},
		Crashes: 1, Failures: 1, Ages: 1,
	},
	{
		Name: "late renewals", Events: []Event{{0, 1, false}},
		Crashes: 1, Late: 1, Failures: 1, Ages: 2,
	},
	{Name: "a token announced again while it is renewed", Events: []Event{{0, 1, false}, {0, 1, false}}, Ages: 1},
	{Name: "spares", Events: []Event{{0, 1, false}}, Spares: 1, Crashes: 1, Lost: 1},
	{Name: "claims", Events: []Event{{0, 1, false}}, Spares: 1, Requests: []Request{{1, 1}, {2, 1}}},
	{Name: "references", Events: []Event{{0, 1, false}}, Requests: []Request{{1, 1}, {1, 2}}, Lost: 1, Ages: 1},
	{Name: "claims of codes that die", Events: []Event{{0, 1, false}}, Requests: []Request{{1, 0}}, Lost: 1, Ages: 2},
	{Name: "authorizations", Events: []Event{{0, 1, false}}, Reports: []uint8{1, 2}, Lost: 1},
	{
		Name: "authorized claims", Events: []Event{{0, 1, false}}, Requests: []Request{{1, 1}}, Reports: []uint8{1},
		Crashes: 1, Lost: 1,
	},
}

// Long are larger ones, which take a minute or two together.
var Long = []Script{
	{
		Name: "renewals, with faults", Events: []Event{{0, 1, false}, {0, 2, false}},
		Crashes: 1, Lost: 1, Failures: 1, Ages: 1,
	},
	{
		Name: "claims, with faults", Events: []Event{{0, 1, false}}, Spares: 1, Requests: []Request{{1, 1}, {2, 1}},
		Crashes: 1, Lost: 1,
	},
	{
		Name: "authorizations, with faults", Events: []Event{{0, 1, false}}, Reports: []uint8{1, 2},
		Crashes: 1, Lost: 1,
	},
}

// script returns the one of Scripts with a name.
func script(name string) Script {
	i := slices.IndexFunc(Scripts, func(s Script) bool { return s.Name == name })
	return Scripts[i]
}
