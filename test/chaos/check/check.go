package check

import (
	"fmt"

	"preauth/test/chaos/history"
)

// Promise is one of the service's promises, with the check that decides whether it was kept.
type Promise struct {
	// Name is its name in reports.
	Name  string
	check func(*index, *verdict)
}

// Promises are all promises that are checked.
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
	{"a spent code stays spent", spentStaysSpent},
	{"frugal", frugal},
	{"silent about secrets", silent},
	{"the processes do as they should", processesBehave},
}

// Result is the result of a check.
type Result struct {
	Violations []Violation
	// Checks counts the comparisons, by promise.
	Checks map[string]int
	// Wasted is how many codes WeChat issued that are not in the table.
	Wasted int
	// CallBound is how many calls of WeChat the evidence allows.
	CallBound int
}

// Total returns the number of comparisons.
func (r Result) Total() int {
	total := 0
	for _, n := range r.Checks {
		total += n
	}
	return total
}

// Check decides whether each promise was kept.
func Check(e *Evidence) Result {
	x := newIndex(e)
	v := &verdict{Result: Result{Checks: map[string]int{}}}
	for _, promise := range Promises {
		v.promise = promise.Name
		promise.check(x, v)
	}
	return v.Result
}

// verdict collects what the checks find.
type verdict struct {
	Result
	promise string
}

// that counts a comparison, and adds a violation unless it holds. says must make sense without the
// events.
func (v *verdict) that(holds bool, events []history.Event, says string, args ...any) {
	v.Checks[v.promise]++
	if !holds {
		v.Violations = append(v.Violations, Violation{v.promise, fmt.Sprintf(says, args...), events})
	}
}

// only returns its arguments as a slice.
func only(events ...history.Event) []history.Event { return events }
