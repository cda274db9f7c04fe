package app

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"
)

// Log is how to log.
type Log struct {
	Level  string `name:"log-level" env:"PREAUTH_LOG_LEVEL" default:"info" values:"debug,info,warn,error" help:"Lowest level that is logged."`
	Format string `name:"log-format" env:"PREAUTH_LOG_FORMAT" default:"auto" values:"auto,text,json" help:"Format of the log on standard error. Auto means text on a terminal and JSON elsewhere."`
}

// Logger returns a logger that writes to w.
func (s Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.Level)) // checked already: the values are slog's names
	options := &slog.HandlerOptions{Level: level}
	if s.Format == "text" || s.Format == "auto" && IsTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	options.ReplaceAttr = withUnit
	return slog.New(slog.NewJSONHandler(w, options))
}

// withUnit makes a JSON log write durations as 15s. Otherwise they would be nanoseconds.
func withUnit(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.StringValue(attr.Value.Duration().String())
	}
	return attr
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
