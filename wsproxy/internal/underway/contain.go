package underway

import (
	"log/slog"
	"runtime/debug"
)

// Contain calls f, a function of the caller of that name, and recovers its panic, which would end
// the program otherwise. It logs the panic with its stack.
func Contain(log *slog.Logger, name string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			LogPanic(log, name, v)
		}
	}()
	f()
}

// LogPanic logs a panic of the caller's code with its stack. It ignores a panic of the logger.
func LogPanic(log *slog.Logger, name string, v any) {
	defer func() { _ = recover() }()
	log.Error(name+" has panicked", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
}
