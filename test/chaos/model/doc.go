// Package model is the protocol of preauth as a small state machine, which a test explores to its
// end: every order of steps, with a kill, a lost answer and a delay at any of them, for two replicas
// and two components.
//
// state.go has the state. actions.go has what can happen, with the function of the service that each
// action stands for. promises.go has what must hold, and scripts.go the bounds. mutations.go has the
// mistakes that the model has to refute: those of the broken builds.
//
// The promises of docs/architecture.md, by their numbers, are in the model as follows.
//
//  1. An event that is acknowledged has its outcome, or a newer one of its component is to come.
//  2. A component has one current code, or no revision.
//  3. The event of a row never goes back.
//  4. The stream gets only what MySQL has, and what MySQL has is in the stream or in the outbox.
//     Revisions only grow. Failures are those of bad events; those of calls are not announced
//     here.
//  5. After each step each replica is asked for each kind of look-up: plain, for a young code, for
//     the newest revision announced. What it gives is committed, not dead, and as asked for. That
//     a code comes in the end is part of settling.
//  6. No code has two claim ids or a revision and a claim id; a claim id keeps its code while it
//     lives.
//  7. A transaction is one step, so no call can be inside.
//  8. Taint: a mark is set when a token or a code is written where it must not be.
//  9. As long as nothing went wrong, no call is made for a token that has a young code. Spares are
//     as many as replicas may make at once.
//  10. The replicas can be exchanged: the exploration takes states that differ in their numbers
//     for one.
//  11. A report that is acknowledged has its code spent; no claim gets a spent code; a look-up
//     does only where an update that says so is on its way.
//  12. Not in the model, but that no replica ends by itself.
//
// Settling is checked backwards: from each state that can be reached, a settled one can be. It says
// that the way back exists, not that it is taken in time.
//
// Replay reads the histories of the fault harness as runs of the model: see there what that checks.
//
// There is no clock. A code is young, old or dead, and grows older at any time; a lease ends when
// its holder is gone, or too early as a fault. So the model knows nothing of how long anything
// takes. Streams that are deleted or set back, updates of somebody else, expired tokens, the quota,
// and the classes of failures are not in it.
package model
