package docs_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What migrate.md compares in the shadow phase agrees in the sandbox, and what differs is shown. Its
// PHP claims a code and reports the authorization.
func TestMigration(t *testing.T) {
	all := slices.DeleteFunc(blocks(t, "docs/adopt.md", "sh"), func(b block) bool {
		return strings.HasPrefix(b.heading, "5.") || strings.HasPrefix(b.heading, "6.")
	})
	add := func(lines ...string) { all = append(all, block{text: strings.Join(lines, "\n") + "\n"}) }
	shadow := shown(t, "docs/migrate.md", "sh", "The shadow phase")
	if len(shadow) != 2 {
		t.Fatalf("the shadow phase has %d blocks", len(shadow))
	}
	tokens, links := shadow[0], shadow[1]

	add("echo compared", tokens, links, "echo agreed")
	add(`redis-cli -u "$REDIS_URL" SET open_platform.component_access_token.wxnocode unusable >&2`, tokens)
	add(strings.TrimSpace(strings.Replace(links, "&auth_type=3", "", 1)) + " || true")
	if _, err := exec.LookPath("php"); err == nil {
		page := blocks(t, "docs/migrate.md", "php")
		add("echo php",
			"bin/preauth gateway token platform --operations authorized --add-to bin/adopt/tokens --token-out bin/adopt/platform.token",
			"cat >bin/adopt/migrate.php <<'PHP'", "<?php", page[0].text+`
			$claim = preauth('claims', ['claim_id' => 'visitor-9', 'reference' => 'order 9'], getenv('SHOP_TOKEN'));
			for ($tries = 0; ; $tries++) { // the gateway reads its file every 2 seconds
				try {
					preauth('authorizations', ['pre_auth_code' => $claim['pre_auth_code'], 'authorizer_appid' => 'wx8888888888888888'], getenv('PLATFORM_TOKEN'));
					break;
				} catch (RuntimeException $e) {
					if ($tries > 600) throw $e;
					usleep(100000);
				}
			}
			echo $claim['pre_auth_code'], ' of ', $claim['reference'], "\n";`, "PHP",
			`SHOP_TOKEN=$(cat bin/adopt/shop.token) PLATFORM_TOKEN=$(cat bin/adopt/platform.token) php -d display_errors=stderr bin/adopt/migrate.php`)
	}

	output := afternoon(t, all)
	_, output, _ = strings.Cut(output, "compared\n")
	agreed, output, _ := strings.Cut(output, "agreed\n")
	if agreed != "" {
		t.Errorf("the same tokens and links differ:\n%s", agreed)
	}
	differences, php, tried := strings.Cut(output, "php\n")
	if want := "wxnocode\n0a1\n> auth_type=3\n"; !strings.HasSuffix(differences, want) {
		t.Errorf("it shows %q, not %q", differences, want)
	}
	if tried && !(strings.HasPrefix(php, "preauthcode@@@") && strings.HasSuffix(php, " of order 9\n")) {
		t.Errorf("PHP prints %q", php)
	}
}
