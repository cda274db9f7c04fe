package main

import (
	"slices"
	"testing"

	"preauth/test/chaos/model"
)

// TestEveryBrokenBuildIsAMutation compares the faults of the model with those of the builds.
func TestEveryBrokenBuildIsAMutation(t *testing.T) {
	var builds, mutations []string
	for _, b := range brokenBuilds {
		builds = append(builds, b.name)
	}
	for _, mutation := range model.Mutations {
		mutations = append(mutations, mutation.Name)
	}
	slices.Sort(builds)
	slices.Sort(mutations)
	if !slices.Equal(builds, mutations) {
		t.Errorf("the broken builds are %q, and the mutations of the model %q", builds, mutations)
	}
}
