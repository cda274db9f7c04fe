package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"preauth"
)

// Each program of the page makes a link that the gateway takes.
func TestProgramsMakeEntryLinks(t *testing.T) {
	const key = "5f4dcc3b5aa765d61d8327deb882cf99"
	page := read(t, "docs/entry.md")
	for language, test := range map[string]struct {
		file    string
		command []string
	}{
		"go":     {"main.go", []string{"go", "run"}},
		"php":    {"entry.php", []string{"php"}},
		"java":   {"Entry.java", []string{"java"}},
		"python": {"entry.py", []string{"python3"}},
		"js":     {"entry.mjs", []string{"node"}},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			program := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(page)
			if program == nil {
				t.Fatal("there is no program")
			}
			path, err := exec.LookPath(test.command[0])
			if err != nil {
				t.Skipf("%s is not installed", test.command[0])
			}
			file := filepath.Join(t.TempDir(), test.file)
			if err := os.WriteFile(file, []byte(program[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			command := exec.CommandContext(t.Context(), path, append(test.command[1:], file)...)
			command.Dir, command.Env = root, append(os.Environ(), "ENTRY_KEY="+key)
			var failed strings.Builder
			command.Stderr = &failed
			out, err := command.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, failed.String())
			}
			target, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "https://auth.example.com")
			link, extra, err := preauth.ParseEntryLink(target, []preauth.Secret{preauth.NewSecret(key)}, time.Now())
			if err != nil || !ok || extra != "" {
				t.Fatalf("%s: %v", out, err)
			}
			if left := time.Until(link.ExpiresAt); left > 10*time.Minute || left < time.Minute {
				t.Errorf("it expires in %v", left)
			}
			link.ExpiresAt = time.Time{}
			if want := (preauth.EntryLink{AppID: "wx0123456789abcdef", ClaimID: "visitor-4f1c", Reference: "order 7", AuthType: 3}); link != want {
				t.Errorf("it says %+v", link)
			}
		})
	}
}
