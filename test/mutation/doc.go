// Command mutation tests the tests: it changes the code of a package in one small way after the
// other, and looks whether the package's own tests fail. See docs/reliability.md.
//
//	go -C test/mutation run . ./wechat .            all mutants of two packages
//	go -C test/mutation run . -sample 100 ./repo    a hundred of them, chosen by a seed
//
// The tests use real servers and take minutes, so a package is compiled once, with all its mutants
// in it ("mutant schemata"). An environment variable says which one is active. One run of each test
// alone records what it reaches. A mutant meets only the tests that reach it, the fastest first,
// until one fails.
//
// The files, lower ones first: sites.go finds what can be changed, schema.go writes all changes into
// the source, suite.go compiles and runs the tests, survivors.go reads the list of mutants that
// change nothing, main.go puts it together.
package main
