package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// readSurvivors reads the list of mutants that change nothing: the key of a mutant in a line, and
// below it, indented, the reason. Lines that begin with # are comments.
func readSurvivors(name string) (map[string]string, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reasons := map[string]string{}
	key := ""
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		text := strings.TrimSpace(line)
		switch {
		case text == "" || strings.HasPrefix(line, "#"):
		case line == text:
			if key != "" && reasons[key] == "" {
				return nil, fmt.Errorf("%s: no reason for %q", name, key)
			}
			key = text
			if _, ok := reasons[key]; ok {
				return nil, fmt.Errorf("%s: %q is there twice", name, key)
			}
			reasons[key] = ""
		case key == "":
			return nil, fmt.Errorf("%s: a reason without a mutant: %q", name, text)
		default:
			reasons[key] = strings.TrimSpace(reasons[key] + " " + text)
		}
	}
	if key != "" && reasons[key] == "" {
		return nil, fmt.Errorf("%s: no reason for %q", name, key)
	}
	return reasons, lines.Err()
}
