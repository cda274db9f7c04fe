package check

import (
	"fmt"

	"preauth/test/chaos/history"
)

// Promise is one of those that design and README make, with the check that decides on it.
type Promise struct {
	// Name is how reports call it.
	Name  string
	check func(*index, *verdict)
}

// Promises are all that are checked.
var Promises = []Promise{
	{"the system settles by itself", settles},
	{"nothing lost", nothingLost},
	{"one current code", oneCurrentCode},
	{"newest token wins", newestTokenWins},
	{"announced if and only if committed", announcedIsCommitted},
	{"revisions only grow", revisionsGrow},
	{"always valid", alwaysValid},
	{"no expired code", noExpiredCode},
	{"one code, one visitor", oneCodeOneVisitor},
	{"claims last", claimsLast},
	{"resolve agrees", resolveAgrees},
	{"frugal", frugal},
	{"silent about secrets", silent},
	{"the processes do as they should", processesBehave},
}

// Result is what a check has found.
type Result struct {
	Violations []Violation
	// Checks counts the comparisons made, by promise.
	Checks map[string]int
	// Wasted is how many codes were issued and are not in the table, all of them beside a fault.
	Wasted int
	// CallBound is how many calls of WeChat the evidence allows for.
	CallBound int
}

// Total returns how many comparisons were made.
func (r Result) Total() int {
	total := 0
	for _, n := range r.Checks {
		total += n
	}
	return total
}

// Check decides on all promises.
func Check(e *Evidence) Result {
	x := newIndex(e)
	v := &verdict{Result: Result{Checks: map[string]int{}}}
	for _, promise := range Promises {
		v.promise = promise.Name
		promise.check(x, v)
	}
	return v.Result
}

// verdict takes what a check finds.
type verdict struct {
	Result
	promise string
}

// that takes down a comparison, and a violation unless it holds. The text of events must not be needed.
func (v *verdict) that(holds bool, events []history.Event, says string, args ...any) {
	v.Checks[v.promise]++
	if !holds {
		v.Violations = append(v.Violations, Violation{v.promise, fmt.Sprintf(says, args...), events})
	}
}

// only returns events as a list.
func only(events ...history.Event) []history.Event { return events }
