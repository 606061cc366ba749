package underway

import (
	"log/slog"
	"runtime/debug"
)

// Contain calls f, a function of the caller's that has this name, where nobody else recovers its
// panic, which would end the program. The panic and its stack are logged.
func Contain(log *slog.Logger, name string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			LogPanic(log, name, v)
		}
	}()
	f()
}

// LogPanic logs a recovered panic of the caller's code with its stack. A logger that panics itself
// is not heard.
func LogPanic(log *slog.Logger, name string, v any) {
	defer func() { _ = recover() }()
	log.Error(name+" has panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
}
