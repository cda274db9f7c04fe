//go:build nodev

package main

// devCommands are left out of a production build, and with them the servers that they bring along.
type devCommands struct{}
