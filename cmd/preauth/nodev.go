//go:build nodev

package main

// devCommands are left out of a production build, and with them the embedded servers.
type devCommands struct{}
