package underway

import (
	"log/slog"
	"reflect"
)

// HoldsNil reports whether v is not nil itself and holds a nil pointer or func.
func HoldsNil(v any) bool {
	r := reflect.ValueOf(v)
	return (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil()
}

// LacksHandler reports whether a logger would panic at its first line. Nil is no such logger.
func LacksHandler(l *slog.Logger) bool {
	return l != nil && (l.Handler() == nil || HoldsNil(l.Handler()))
}
