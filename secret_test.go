package preauth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"preauth"
)

func TestSecretNeverPrintsItself(t *testing.T) {
	const text = "61_W3mEQkP0VbZc5x5vJ8F1G7kPOq2yq0TtX8mZ9n"
	secret := preauth.NewSecret(text)
	type inner struct{ hidden preauth.Secret }
	values := map[string]any{
		"value":              secret,
		"pointer":            &secret,
		"exported field":     struct{ Token preauth.Secret }{secret},
		"unexported field":   inner{secret},
		"pointer to a field": &inner{secret},
		"slice":              []preauth.Secret{secret},
		"map":                map[string]preauth.Secret{"token": secret},
		"interface in field": struct{ v any }{secret},
		"token event":        preauth.TokenEvent{Token: secret},
		"update":             preauth.Update{PreAuthCode: secret},
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%T"}
	for name, value := range values {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, verb := range verbs {
				fmt.Fprintf(&out, verb+"\n", value)
			}
			fmt.Fprintln(&out, fmt.Errorf("wrapped: %v", value), errors.Join(fmt.Errorf("%+v", value)))
			for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
				log := slog.New(handler)
				log.Info("message", "value", value)
				log.With("value", value).Info("message", slog.Group("group", "value", value))
			}
			if body, err := json.Marshal(value); err == nil {
				out.Write(body)
			} else {
				out.WriteString(err.Error())
			}
			if strings.Contains(out.String(), text) || strings.Contains(out.String(), fmt.Sprintf("%x", text)) {
				t.Errorf("the text got out:\n%s", out.String())
			}
		})
	}
}

func TestSecretMarshalsToAnError(t *testing.T) {
	token := struct {
		Token preauth.Secret `json:"token"`
	}{preauth.NewSecret("text")}
	if body, err := json.Marshal(token); err == nil {
		t.Fatalf("got %s, want an error", body)
	}
}

func TestSecretUnmarshals(t *testing.T) {
	var got struct {
		Token preauth.Secret `json:"token"`
	}
	if err := json.Unmarshal([]byte(`{"token":"a b"}`), &got); err != nil {
		t.Fatal(err)
	}
	if got.Token.Reveal() != "a b" {
		t.Errorf("got another text")
	}
}

func TestSecretEqualAndZero(t *testing.T) {
	a, b := preauth.NewSecret("text"), preauth.NewSecret(string([]byte("text")))
	if !a.Equal(b) || a.Equal(preauth.NewSecret("Text")) || a.Equal(preauth.Secret{}) {
		t.Error("Equal does not compare the texts byte for byte")
	}
	if a.IsZero() || !preauth.NewSecret("").IsZero() || (preauth.Secret{}).Reveal() != "" {
		t.Error("only the empty text is zero")
	}
}

func TestSecretHint(t *testing.T) {
	long := "preauthcode@@@" + strings.Repeat("x", 60) + "tail"
	if got := preauth.NewSecret(long).Hint(); got != "preauthcode@@@xx…tail" {
		t.Errorf("Hint() = %q", got)
	}
	if got := preauth.NewSecret(long[:40]).Hint(); got != "preauthcode@@@xx…xxxx" {
		t.Errorf("Hint() of 40 bytes = %q", got)
	}
	if got := preauth.NewSecret(long[:39]).Hint(); got != "[redacted]" {
		t.Errorf("Hint() of a short text = %q", got)
	}
	if got := preauth.NewSecret(long).String(); got != "[redacted]" {
		t.Errorf("String() = %q", got)
	}
	if got := preauth.NewSecret(long).GoString(); got != "[redacted]" {
		t.Errorf("GoString() = %q", got)
	}
	if got := preauth.NewSecret(long).LogValue().String(); got != "[redacted]" {
		t.Errorf("LogValue() = %q", got)
	}
}
