package model_test

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"preauth/internal/leak"
	"preauth/test/chaos/model"
)

var long = flag.Bool("long", false, "explore larger scripts too")

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// TestPromisesHold explores each script to its end.
func TestPromisesHold(t *testing.T) {
	scripts := model.Scripts
	if *long {
		scripts = slices.Concat(scripts, model.Long)
	}
	for _, script := range scripts {
		t.Run(script.Name, func(t *testing.T) {
			result := model.New(script).Explore()
			t.Log(result)
			if result.Broken != "" {
				t.Fail()
			}
		})
	}
}

// TestMutationsAreRefuted explores each mutation until it breaks its promise.
func TestMutationsAreRefuted(t *testing.T) {
	for _, mutation := range model.Mutations {
		t.Run(mutation.Name, func(t *testing.T) {
			result := mutation.Mutated().Explore()
			t.Log(result)
			if !strings.HasPrefix(result.Broken, mutation.Promise+":") || len(result.Trace) == 0 {
				t.Errorf("want %q broken, with a trace", mutation.Promise)
			}
		})
	}
}
