package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestProductionBuildHasNoServers(t *testing.T) {
	t.Parallel()
	servers := []string{"github.com/nats-io/nats-server/v2/server", "preauth/internal/mysqlserver", "preauth/internal/natsserver", "preauth/wechat/wechattest"}
	dependencies := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // it may have to download modules
		defer cancel()
		list, err := exec.CommandContext(ctx, "go", append([]string{"list", "-deps"}, args...)...).Output()
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, failed.Stderr)
		}
		if err != nil {
			t.Fatal(err)
		}
		return "\n" + string(list)
	}
	production, development := dependencies("."), dependencies("../preauth-dev")
	for _, server := range servers {
		if strings.Contains(production, "\n"+server+"\n") {
			t.Errorf("the production build has %s", server)
		}
		if !strings.Contains(development, "\n"+server+"\n") {
			t.Errorf("preauth-dev does not have %s: the test looks for the wrong packages", server)
		}
	}
}
