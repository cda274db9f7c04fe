package model

// flaws are what is wrong with a mutated model.
type flaws struct {
	acknowledgedWhenTaken, badEventIgnored, eventsNotCompared, announcedBeforeCommit, someForgotten,
	expiredServed, minTTLIgnored, minRevisionIgnored, lifeFromAnswer,
	claimTakesClaimed, claimGetsCurrent, claimGetsAnother, referenceNotCompared, claimResolvesToNothing,
	authorizationNotSaved, spentStaysCurrent, claimKeepsSpent,
	repeatedTokenCosts, renewedTooEarly, sparesWithoutLimit,
	tokenLogged, codeLogged, tokenStored, nothingRetried, badEventExits bool
}

// Mutation is a mistake in the protocol, named like the broken build that has it.
type Mutation struct {
	Name string
	// Promise is the one that the mutation breaks, in the script of that name.
	Promise, Script string
	set             func(*flaws)
}

// Mutations are all of them.
var Mutations = []Mutation{
	{"an event is acknowledged when it is taken", "nothing lost", "repeated and bad events", func(f *flaws) { f.acknowledgedWhenTaken = true }},
	{"a bad event is ignored", "nothing lost", "repeated and bad events", func(f *flaws) { f.badEventIgnored = true }},
	{"events are not compared", "newest token wins", "renewals", func(f *flaws) { f.eventsNotCompared = true }},
	{"a code is announced before it is committed", "announced if and only if committed", "repeated and bad events", func(f *flaws) { f.announcedBeforeCommit = true }},
	{"some announcements are forgotten", "announced if and only if committed", "late renewals", func(f *flaws) { f.someForgotten = true }},
	{"expired codes are given out", "no expired code", "late renewals", func(f *flaws) { f.expiredServed = true }},
	{"min_ttl is ignored", "no expired code", "late renewals", func(f *flaws) { f.minTTLIgnored = true }},
	{"min_revision is ignored", "revisions only grow", "late renewals", func(f *flaws) { f.minRevisionIgnored = true }},
	{"a life counts from WeChat's answer", "no expired code", "late renewals", func(f *flaws) { f.lifeFromAnswer = true }},
	{"a claim takes a code that another claim has", "one code, one visitor", "claims", func(f *flaws) { f.claimTakesClaimed = true }},
	{"a claim without a spare gets the current code", "one code, one visitor", "claims", func(f *flaws) { f.claimGetsCurrent = true }},
	{"a claim id gets a code each time", "claims last", "claims", func(f *flaws) { f.claimGetsAnother = true }},
	{"a reference is not compared", "claims last", "references", func(f *flaws) { f.referenceNotCompared = true }},
	{"a claimed code resolves to nothing", "resolve agrees", "claims", func(f *flaws) { f.claimResolvesToNothing = true }},
	{"an authorization is acknowledged though it is not saved", "a spent code stays spent", "authorizations", func(f *flaws) { f.authorizationNotSaved = true }},
	{"a current code is marked as spent and stays current", "a spent code stays spent", "authorizations", func(f *flaws) { f.spentStaysCurrent = true }},
	{"a claim id keeps its spent code", "a spent code stays spent", "authorized claims", func(f *flaws) { f.claimKeepsSpent = true }},
	{"a token announced again costs a call", "frugal", "repeated and bad events", func(f *flaws) { f.repeatedTokenCosts = true }},
	{"codes are renewed too early", "frugal", "late renewals", func(f *flaws) { f.renewedTooEarly = true }},
	{"spares are made without limit", "frugal", "spares", func(f *flaws) { f.sparesWithoutLimit = true }},
	{"a token is logged", "silent about secrets", "spares", func(f *flaws) { f.tokenLogged = true }},
	{"a code is logged", "silent about secrets", "spares", func(f *flaws) { f.codeLogged = true }},
	{"a token is stored", "silent about secrets", "late renewals", func(f *flaws) { f.tokenStored = true }},
	{"nothing is retried", "the system settles by itself", "late renewals", func(f *flaws) { f.nothingRetried = true }},
	{"a bad event ends the process", "the processes do as they should", "repeated and bad events", func(f *flaws) { f.badEventExits = true }},
}
