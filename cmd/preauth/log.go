package main

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"
)

// logSettings say how to log.
type logSettings struct {
	Level  string `name:"log-level" env:"PREAUTH_LOG_LEVEL" default:"info" values:"debug,info,warn,error" help:"Least level that is logged."`
	Format string `name:"log-format" env:"PREAUTH_LOG_FORMAT" default:"auto" values:"auto,text,json" help:"Form of the log, on standard error. Auto is text on a terminal and JSON otherwise."`
}

// logger returns the log to w.
func (s logSettings) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.Level)) // the names are slog's
	options := &slog.HandlerOptions{Level: level}
	if s.Format == "text" || s.Format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	options.ReplaceAttr = withUnit
	return slog.New(slog.NewJSONHandler(w, options))
}

// withUnit writes a duration as text does, 15s, where JSON would have a number of nanoseconds.
func withUnit(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.StringValue(attr.Value.Duration().String())
	}
	return attr
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
