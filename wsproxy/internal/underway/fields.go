package underway

import (
	"errors"
	"log/slog"
	"reflect"
)

// HoldsNil reports whether v is not nil itself and holds a nil pointer or func.
func HoldsNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// CheckLogger refuses a logger that would panic at its first line.
func CheckLogger(l *slog.Logger) error {
	if l != nil && (l.Handler() == nil || HoldsNil(l.Handler())) {
		return errors.New("Logger has no handler")
	}
	return nil
}
